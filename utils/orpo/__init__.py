"""ORPO's loss, one function for each equation, and the figures that explain it."""

from utils.orpo.figures import paper_rows as paper_rows
from utils.orpo.figures import plot_log_probabilities as plot_log_probabilities
from utils.orpo.figures import plot_pushes as plot_pushes
from utils.orpo.math import odds_ratio_loss as odds_ratio_loss
from utils.orpo.math import odds_ratio_push as odds_ratio_push
from utils.orpo.math import orpo_loss as orpo_loss
from utils.orpo.math import pair_terms as pair_terms
from utils.orpo.math import probability_ratio_loss as probability_ratio_loss
from utils.orpo.math import probability_ratio_push as probability_ratio_push
