"""The operator's commands: `deploy`, `rollback`, `abort`, `watch`, and to look at what they did `status`, `history`, `releases`."""
