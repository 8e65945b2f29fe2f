#!/usr/bin/env bash
# Runs the public test suite of HTTP caches, https://github.com/http-tests/cache-tests, against the proxy in this directory, and
# prints what came of it. It needs Go, Node.js, and a clone of the suite in which "npm install" was run:
#
#	bash examples/httpcache/cache-tests.sh CLONE [RESULTS.json]
#
# Servers listen on 127.0.0.1:8700 and :8702. The results are written to a file of the form that the suite itself holds.
set -euo pipefail

suite=$(cd "${1:?the directory of the clone}" && pwd)
results=${2:-$(mktemp)}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

work=$(mktemp -d)
pids=()
cleanup() {
	((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
	wait
	rm -rf "$work"
}
trap cleanup EXIT

(cd "$here" && go build -o "$work/proxy" .)
"$work/proxy" -origin http://127.0.0.1:8700 -listen 127.0.0.1:8702 -unkeyed Req-Num -targets CDN-Cache-Control >"$work/proxy.log" 2>&1 &
pids+=($!)
cd "$suite"
npm_config_protocol=http npm_config_port=8700 npm_config_pidfile="$work/pid" node --no-warnings test-engine/server/server.mjs >"$work/server.log" 2>&1 &
pids+=($!)
for port in 8700 8702; do
	until (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
		kill -0 "${pids[@]}" 2>/dev/null || { cat "$work"/*.log >&2; exit 1; }
	done
done
npm_config_base=http://127.0.0.1:8702 npm_config_id='' npm_package_config_id='' node --no-warnings test-engine/cli.mjs >"$results"

cat >"$work/score.mjs" <<'END'
import { readFileSync } from 'fs'
const suite = process.argv[2]
const { determineTestResult } = await import(suite + '/test-engine/lib/results.mjs')
const tests = (await import(suite + '/tests/index.mjs')).default
const index = (await import(suite + '/results/index.mjs')).default
const words = { '✅': 'pass', '⛔️': 'fail', '⚠️': 'fail' }

// count returns how many tests of a kind passed and failed, and the lines of those that failed. What the suite leaves out, for a
// test before that did not pass or could not be set up, is neither.
function count (file) {
  const results = JSON.parse(readFileSync(file))
  const n = { required: { pass: 0, fail: 0 }, optimal: { pass: 0, fail: 0 } }
  const failed = []
  for (const test of tests.flatMap(suite => suite.tests)) {
    const kind = test.kind || 'required'
    const word = words[determineTestResult(tests, test.id, results)[2]]
    if (kind === 'check' || test.browser_only || !word) continue
    n[kind][word]++
    if (word === 'fail') failed.push(`${kind} ${test.id}: ${results[test.id][1]}`)
  }
  return { n, failed }
}

const row = (name, { n }) => console.log(`| ${name} | ${n.required.pass} | ${n.required.fail} | ${n.optimal.pass} |`)
const ours = count(process.argv[3])
console.log('| | required, passed | required, failed | optimal, passed |\n|---|---|---|---|')
row('**cachex**', ours)
for (const other of index.filter(other => other.type !== 'browser')) row(`${other.name} ${other.version}`, count(`${suite}/results/${other.file}`))
console.log('\n' + ours.failed.sort().join('\n'))
process.exit(ours.n.required.fail ? 1 : 0)
END
node --no-warnings "$work/score.mjs" "$suite" "$results"
