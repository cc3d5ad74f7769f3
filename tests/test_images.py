"A notebook shows a figure of `show_images` exactly once, whichever way its cell ends."
import nbformat
import pytest

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("matplotlib")

START = ("import torch\nimport matplotlib.pyplot as plt\nfrom maskgit_nb.images import show_images\nx = "
         "torch.zeros(2, 3, 8, 8)")
CELLS = {"show_images(x)": 1, "show_images(x);": 1, "figure = show_images(x)": 1, "figure = show_images(x)\nfigure": 1,
         "show_images(x)\nplt.show()": 1, "show_images(x);\nplt.show()": 1,
         "figure = show_images(x)\ndisplay(figure)": 1, "for _ in range(2): show_images(x)": 2,
         "plt.subplots()\nshow_images(x)": 2, "assert not plt.get_fignums()": 0}


def test_a_figure_is_shown_once():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (START, *CELLS)])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3",
                            extra_arguments=["--IPKernelApp.log_level=ERROR"]).execute()
    shown = {cell.source: sum("image/png" in output.get("data", {}) for output in cell.outputs)
             for cell in notebook.cells[1:]}
    assert shown == CELLS
