"""Widgets that explore what a cell has already computed."""

from utils.widgets.batch import show_batch as show_batch
from utils.widgets.curves import explore_curves as explore_curves
from utils.widgets.loss import explore_loss as explore_loss
from utils.widgets.loss import plot_loss_surface as plot_loss_surface
from utils.widgets.pairs import browse_pairs as browse_pairs
from utils.widgets.pairs import show_pair as show_pair
from utils.widgets.tokens import explore_tokens as explore_tokens
from utils.widgets.tokens import show_token_changes as show_token_changes
