"""A dataset as WebDataset shards with footage, and read again: `python examples/share.py talks talks-shards`.

Footage goes along only because it is asked for: read its licences first (docs/RIGHTS.md).
"""

import sys
import tarfile
from pathlib import Path

import mit_builder as mb

workspace, output = sys.argv[1:]
for line in mb.export(workspace, output, form="webdataset", with_media=True):
    print(line)
for shard in sorted(Path(output).glob("*.tar")):
    with tarfile.open(shard) as file:
        print(shard.name, *file.getnames(), sep="\n  ")
