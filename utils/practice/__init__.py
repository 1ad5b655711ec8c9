"""A small Hub on this machine, test models and made-up data, and the runner of the series."""

from utils.practice.small_world import distinct_pairs as distinct_pairs
from utils.practice.small_world import preference_pairs as preference_pairs
from utils.practice.stand_ins import small_base as small_base
