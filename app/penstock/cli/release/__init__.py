"""The operator's commands: `deploy`, `rollback`, `abort`, `watch`; and to see the results, `status`, `history`, `releases`."""
