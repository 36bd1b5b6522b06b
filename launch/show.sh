# Sourced by the other scripts: prints a command so that it can be pasted into a shell.
show() {
  local word line=
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then printf -v word %q "$word"; fi
    line="$line $word"
  done
  echo "${line# }"
}
