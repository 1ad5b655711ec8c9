"""Trains an adapter with ORPO so that neither hours nor results are lost."""

from utils.train.base import fetch_base as fetch_base
from utils.train.fit import check_run as check_run
from utils.train.keep import find_adapter as find_adapter
from utils.train.keep import keep_run as keep_run
from utils.train.memory import count_weights as count_weights
from utils.train.memory import measure_peak as measure_peak
from utils.train.model_loading import load_base as load_base
from utils.train.protect import guard as guard
from utils.train.protect import load_pairs as load_pairs
from utils.train.protect import predict_cost as predict_cost
