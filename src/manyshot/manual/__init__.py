"""What a recipe may hold, explained to people: its keys, its slots, and the options of plug-ins.

Nothing is written twice for that: all of it is read from the types and docstrings of settings and
plug-ins, ours or anybody's. `annotated` puts a type, its bounds and parts of docstrings into words;
`keys` lists the keys of a recipe, `slots` the slots and what fills them, `options` the options of a
plug-in. `manyshot recipe --keys`, `manyshot options` and pages show it, as tables of
`tables/settings.py`. To import `slots` is to import all plug-ins, and so torch; the others need
none.
"""
