"""How the executor's process marks lines for people, where neither side wants to load the other."""

MARK = "medprov: "
