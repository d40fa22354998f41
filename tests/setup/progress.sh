# shellcheck shell=bash
# Sourced. progress WHAT COMMAND…: runs a command that may take long, with a line that says what is done and for how many
# seconds; its output is shown only if it fails. The line is rewritten in place on a terminal; elsewhere it is begun at the
# start and ended at the end.
# The line goes to stderr. Returns the command's exit status.
progress() {
  local what=$1 log status=0 start=$SECONDS pid
  shift
  log=$(mktemp)
  "$@" >"$log" 2>&1 &
  pid=$!
  # shellcheck disable=SC2064
  trap "kill $pid 2>/dev/null; rm -f '$log'; exit 130" INT TERM
  if [ -t 2 ]; then
    while kill -0 "$pid" 2>/dev/null; do
      printf '\r  %-60s %4d s' "$what" $((SECONDS - start)) >&2
      read -r -t 0.5 <> <(:) || true  # a pause without a process of its own
    done
    printf '\r  %-60s ' "$what" >&2
  else
    printf '  %-60s ' "$what" >&2
  fi
  wait "$pid" || status=$?
  trap - INT TERM
  printf '%4d s%s\n' $((SECONDS - start)) "$([ $status = 0 ] || echo "  failed")" >&2
  [ $status = 0 ] || tail -n 40 "$log" >&2
  rm -f "$log"
  return $status
}
