#!/usr/bin/env bash
# All suites, from a fresh clone: those of different environments side by side. What a suite says is
# printed whole when it ends; the last lines say how each of them ended, after how long, and which
# tests failed.
set -uo pipefail
set -m # each lane is a process group of its own, which an interrupt reaches as a whole
cd "$(dirname "$0")/.."
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
trap 'kill -INT -- "${lanes[@]/#/-}" 2>/dev/null; exit 130' INT TERM

suite() { # SCRIPT: run it, print what it said, note how it ended
  local code=0 begun=$SECONDS
  bash "scripts/$1" >"$logs/$1.log" 2>&1 </dev/null || code=$?
  echo "$1: exit code $code after $((SECONDS - begun)) s; $(tail -n 1 "$logs/$1.log")" >"$logs/$1.end"
  { flock 9 && echo "===== $1" && cat "$logs/$1.log"; } 9>"$logs/lock"
  return $code
}

lane() { # SCRIPT...: one suite after another
  local failed=0 script
  for script in "$@"; do
    suite "$script" || failed=1
  done
  return $failed
}

lanes=() failed=0
lane install_vllm.sh test_trainers.sh test_vllm.sh & lanes+=($!)
# one .venv serves the other suites: it is complete before the first of them begins
if bash scripts/install.sh dev </dev/null && bash scripts/install.sh dev,browser </dev/null; then
  lane test.sh & lanes+=($!)
  lane test_slurm.sh test_browser.sh & lanes+=($!) # Slurm's tests mostly wait
else
  echo "install.sh: exit code $?" >"$logs/install.sh.end"
  failed=1
fi
for pid in "${lanes[@]}"; do
  wait "$pid" || failed=1
done
echo "===== all suites"
cat "$logs"/*.end
grep -hE '^(FAILED|ERROR) ' "$logs"/*.log
exit $failed
