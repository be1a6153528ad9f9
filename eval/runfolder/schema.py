"""What stands in the files of a run folder, field by field: types for code, words for readers.

    run.json            NeedleRunJson, PerplexityRunJson      run_schema.py
    results.jsonl       NeedleRecord                          record_schema.py
    controls.jsonl      ControlRecord
    perplexity.jsonl    PerplexityRecord
    summary.json        NeedleSummary                         summary_schema.py
    tasks.json          TasksTable
    perplexity.json     PerplexitySummary

fields.py makes the tables of docs/run-folder.md from here; a test compares them with what runs
write.
"""

from __future__ import annotations

from collections.abc import Mapping

from longctx.eval.runfolder.record_schema import ControlRecord, NeedleRecord, PerplexityRecord
from longctx.eval.runfolder.run_schema import NeedleRunJson, PerplexityRunJson
from longctx.eval.runfolder.summary_schema import NeedleSummary, PerplexitySummary, TasksTable

# The files of a run folder and what stands in each, in the order in which they are described.
FILES: Mapping[str, tuple[type, ...]] = {
    "run.json": (NeedleRunJson, PerplexityRunJson),
    "results.jsonl": (NeedleRecord,),
    "controls.jsonl": (ControlRecord,),
    "summary.json": (NeedleSummary,),
    "perplexity.jsonl": (PerplexityRecord,),
    "perplexity.json": (PerplexitySummary,),
    "tasks.json": (TasksTable,),
}
