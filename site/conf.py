"""Settings of Sphinx for the site. The pages that it reads are written by `build.py`, beside a copy of this file."""

project = "The ORPO course"
html_title = project
author = ""
root_doc = "index"
language = "en"

extensions = ["myst_nb"]
html_theme = "sphinx_book_theme"
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 2,
    "show_prev_next": False,  # every notebook has its own line of navigation
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "pygments_light_style": "github-light",
    "pygments_dark_style": "github-dark",
}
html_context = {"default_mode": "auto"}
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = False

# Notebooks are shown as they ran; nothing is run here, and no page asks another host for anything.
nb_execution_mode = "off"
nb_output_stderr = "remove"  # progress bars of libraries
nb_merge_streams = True
nb_ipywidgets_js = {}
nb_render_markdown_format = "gfm"
nb_code_prompt_show = "Show the setup cell"
nb_code_prompt_hide = "Hide the setup cell"

# Markdown as Colab and GitHub read it: tables, formulas, anchors of headings; none of what only MyST knows.
myst_enable_extensions = ["dollarmath"]
myst_dmath_allow_space = False
myst_dmath_allow_digits = False
myst_heading_anchors = 4
myst_disable_syntax = ["myst_role", "myst_target", "myst_line_comment", "myst_block_break"]
suppress_warnings = ["myst.header"]  # a solution skips a level of headings, as its notebook does not

# One file of JavaScript and its fonts, out of a package: no content delivery network.
mathjax_path = "mathjax/tex-chtml-full.js"
mathjax3_config = {"options": {"enableMenu": False}}  # its menu would load more files
