"README.md from nbs/index.ipynb: its prose and outputs without the code cells, links made relative to the top."
import re
from pathlib import Path

from nbconvert import MarkdownExporter
from writing import write_whole

ROOT = Path(__file__).parents[1]
text, _ = MarkdownExporter(exclude_input=True).from_filename(str(ROOT / "nbs" / "index.ipynb"))
text = re.sub(r"\]\((?!https?:|#)(\.\./)?", lambda match: "](" if match.group(1) else "](nbs/", text)
write_whole(ROOT / "README.md", re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
