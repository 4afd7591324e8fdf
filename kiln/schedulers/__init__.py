"""Batch schedulers: thin adapters of their own commands behind one protocol, `contract.Scheduler`."""
