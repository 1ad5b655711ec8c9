"""Widgets that explore what a cell has already computed."""

from utils.widgets.batch import show_batch as show_batch
from utils.widgets.curves import explore_curves as explore_curves
from utils.widgets.loss import explore_loss as explore_loss
from utils.widgets.loss import plot_loss_surface as plot_loss_surface
from utils.widgets.memory import explore_memory as explore_memory
from utils.widgets.memory import known_skeleton as known_skeleton
from utils.widgets.memory import plot_memory as plot_memory
from utils.widgets.memory import predict_memory as predict_memory
from utils.widgets.pairs import browse_pairs as browse_pairs
from utils.widgets.pairs import show_pair as show_pair
from utils.widgets.tokens import explore_tokens as explore_tokens
from utils.widgets.tokens import show_token_changes as show_token_changes
