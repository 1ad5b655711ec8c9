"""Checks of the exercises, by notebook."""

from utils.exercises.notebook_01 import check_even_beta as check_even_beta
from utils.exercises.notebook_01 import check_mean as check_mean
from utils.exercises.notebook_01 import check_own_loss as check_own_loss
from utils.exercises.notebook_03 import check_trainable as check_trainable
from utils.exercises.notebook_03 import check_window as check_window
from utils.exercises.notebook_04 import check_rows as check_rows
from utils.exercises.notebook_04 import draw_quiz as draw_quiz
from utils.exercises.notebook_06 import check_accuracy as check_accuracy
from utils.exercises.notebook_06 import check_findings as check_findings
from utils.exercises.notebook_06 import check_flips as check_flips
from utils.exercises.notebook_08 import check_losses as check_losses
from utils.exercises.notebook_08 import check_reward_margin as check_reward_margin
from utils.exercises.notebook_08 import check_stages as check_stages
