"""Turns rows into judged pairs, mixes sources with a ledger, and writes pairs in the chat format."""

from utils.data.chat_format import CHAT_TEMPLATE as CHAT_TEMPLATE
from utils.data.chat_format import choose_pad_token as choose_pad_token
from utils.data.chat_format import pair_lengths as pair_lengths
from utils.data.chat_format import prepare_tokenizer as prepare_tokenizer
from utils.data.chat_format import render_pair as render_pair
from utils.data.loading import load_pairs as load_pairs
from utils.data.pairs import DataReport as DataReport
from utils.data.pairs import NotAPair as NotAPair
from utils.data.pairs import judge_pair as judge_pair
from utils.data.pairs import prompt_hash as prompt_hash
from utils.data.pairs import split_pairs as split_pairs
from utils.data.pairs import to_pair as to_pair
