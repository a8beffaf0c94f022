"""Comparing methods at equal search budgets: contestants, fresh seeds, paired statistics, tables."""
