"""Active speaker detection: TalkNet, LR-ASD, and the rule on lips that needs no weights."""
