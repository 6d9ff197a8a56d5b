-- luacheck (`make lint`) of the scripts as Redis gets them: Lua 5.1, with what Redis puts beside it.
std = "lua51"
max_line_length = 120
-- `KEYS` and `ARGV` are arguments in all but name: a script may change neither.
read_globals = { "redis", "cjson", "cmsgpack", "struct", "bit", "KEYS", "ARGV" }
