"""Publishes what was trained: merge, cards, files for other tools, and the chat."""

from utils.publish.chat import check_chat, load_sides, push_space, write_space
from utils.publish.chat_app import build_app, context_length, fit_prompt, start_app, stream_answer
from utils.publish.evaluated import check_models, fetch_merged, find_models, write_cards
from utils.publish.export import TOOLS, write_export
from utils.publish.gguf import gguf_problem, modelfile, read_gguf, write_gguf
from utils.publish.merge import check_merge, compare_predictions, document_merge, push_adapter, read_back
