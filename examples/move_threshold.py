"""What another threshold keeps, without inference: `python examples/move_threshold.py talks filter.min_face_px 36`.

The workspace keeps the setting; `unset` brings the default back, and the clips with it.
"""

import sys

import mit_builder as mb

workspace, setting, value = sys.argv[1:]
before = mb.status(workspace).counts["candidates"].get("kept", 0)
result = mb.run(workspace=workspace, settings={setting: float(value)}, stages=["filter"], engine="serial")
print(f"kept {before} candidates, with {setting}={value} {result.counts['candidates'].get('kept', 0)}; the others:")
for row in result.rejected:
    if row["stage"] == "filter.select":
        print(f"  {row['start_s']:7.2f}-{row['end_s']:.2f} s  {row['reason']:20} face {row['min_face_px'] or 0:.0f} px")
mb.run(workspace=workspace, unset=[setting], engine="serial")
