"""Publishes what was trained: merge, cards, files for other tools, and the chat."""

from utils.publish.evaluated import check_models as check_models
from utils.publish.evaluated import fetch_merged as fetch_merged
from utils.publish.evaluated import find_models as find_models
from utils.publish.evaluated import write_cards as write_cards
from utils.publish.export import TOOLS as TOOLS
from utils.publish.export import write_export as write_export
