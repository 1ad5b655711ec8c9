"""Publishes what was trained: merge, cards, files for other tools, and the chat."""

from utils.publish.chat import check_chat as check_chat
from utils.publish.chat import load_sides as load_sides
from utils.publish.chat import push_space as push_space
from utils.publish.chat import write_space as write_space
from utils.publish.chat_app import build_app as build_app
from utils.publish.chat_app import context_length as context_length
from utils.publish.chat_app import fit_prompt as fit_prompt
from utils.publish.chat_app import start_app as start_app
from utils.publish.chat_app import stream_answer as stream_answer
from utils.publish.evaluated import check_models as check_models
from utils.publish.evaluated import fetch_merged as fetch_merged
from utils.publish.evaluated import find_models as find_models
from utils.publish.evaluated import write_cards as write_cards
from utils.publish.export import TOOLS as TOOLS
from utils.publish.export import write_export as write_export
from utils.publish.gguf import gguf_problem as gguf_problem
from utils.publish.gguf import modelfile as modelfile
from utils.publish.gguf import read_gguf as read_gguf
from utils.publish.gguf import write_gguf as write_gguf
from utils.publish.merge import check_merge as check_merge
from utils.publish.merge import compare_predictions as compare_predictions
from utils.publish.merge import document_merge as document_merge
from utils.publish.merge import push_adapter as push_adapter
from utils.publish.merge import read_back as read_back
