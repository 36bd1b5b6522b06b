# Sourced by the other scripts: prints a command so that it can be pasted into a shell.
show() {
  local word words=()
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then word=${word@Q}; fi
    words+=("$word")
  done
  echo "${words[*]}"
}
