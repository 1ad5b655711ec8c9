"""Reads a run's curves from disk, the Hub or W&B, draws them, and says what they mean."""

from utils.curves.diagnosis import RULES as RULES
from utils.curves.diagnosis import diagnose_run as diagnose_run
from utils.curves.diagnosis import list_rules as list_rules
from utils.curves.figures import PANELS as PANELS
from utils.curves.figures import ends_table as ends_table
from utils.curves.figures import live_curves as live_curves
from utils.curves.figures import plot_history as plot_history
from utils.curves.figures import plot_runs as plot_runs
from utils.curves.run import first_and_last as first_and_last
from utils.curves.run import read_history as read_history
from utils.curves.run import read_made_runs as read_made_runs
from utils.curves.run import read_run as read_run
