"""The papers' printed numbers beside ours."""
