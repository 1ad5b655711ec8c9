"""Widgets that explore what a cell has already computed."""

from utils.widgets.curves import explore_curves as explore_curves
from utils.widgets.tokens import explore_tokens as explore_tokens
from utils.widgets.tokens import show_token_changes as show_token_changes
