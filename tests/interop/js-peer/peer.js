// js-peer runs one or many js-libp2p nodes with @libp2p/kad-dht in one process, for the
// interoperability tests. A test drives it with the JSON lines of go-peer/protocol.go; commands.js
// has what can be asked. Its log is stderr. It ends when its stdin ends.

import './node20.js'
import { createInterface } from 'node:readline'

const { commands } = await import('./commands.js')
const { Node } = await import('./node.js')
const { explain, say, sayOutcome } = await import('./protocol.js')

const DEFAULT_COMMAND_TIMEOUT_S = 30
const CLOSE_TIMEOUT_MS = 2000

// A rejection that the library lets go unhandled would end the process, and say nothing.
process.on('unhandledRejection', error => console.error('unhandled:', error))

function flags (given) {
  const options = {
    count: 1, listen: [], bootstrap: [], mode: 'server', seed: null, security: 'noise,tls',
    values: 'any', limits: 'none', refresh: true, apart: false
  }
  for (let at = 0; at < given.length; at++) {
    const name = given[at].replace(/^--?/, '')
    if (name === 'no-refresh') {
      options.refresh = false
      continue
    }
    if (name === 'apart') {
      options.apart = true
      continue
    }
    const value = given[++at]
    if (!(name in options) || value == null) throw new Error(`${given[at - 1]} is not known`)
    if (Array.isArray(options[name])) options[name].push(value)
    else options[name] = name === 'count' ? Number(value) : value
  }
  if (!(options.count >= 1)) throw new Error('--count must be at least 1')
  if (options.listen.length === 0) options.listen.push('/ip4/127.0.0.1/tcp/0')
  return options
}

/** Each node joins through the bootstrap addresses, or, where none were given and the nodes are not
 * to be apart, through the first. */
async function startNodes (options) {
  const nodes = []
  for (let index = 0; index < options.count; index++) {
    const node = await Node.start(options, index)
    nodes.push(node)
    const alone = options.apart || index === 0
    const through = options.bootstrap.length > 0 || alone ? options.bootstrap : nodes[0].addrs
    await node.join(through)
  }
  return nodes
}

function execute (nodes, request) {
  const node = nodes[request.peer ?? 0]
  if (node == null) throw new Error(`no node ${request.peer}: there are ${nodes.length}`)
  if (!Object.hasOwn(commands, request.command)) {
    throw new Error(`unknown command ${JSON.stringify(request.command)}`)
  }
  const seconds = request.timeout_s > 0 ? request.timeout_s : DEFAULT_COMMAND_TIMEOUT_S
  return commands[request.command](node, request.args ?? {}, AbortSignal.timeout(seconds * 1000))
}

const nodes = await startNodes(flags(process.argv.slice(2)))
say({
  ready: true,
  implementation: 'js',
  peers: nodes.map(node => ({ peer_id: node.peerId.toString(), addrs: node.addrs }))
})

for await (const line of createInterface({ input: process.stdin })) {
  let request
  try {
    request = JSON.parse(line)
  } catch (error) {
    say({ ok: false, error: `not a command: ${explain(error)}` })
    continue
  }
  if (request.command === 'quit') {
    say({ id: request.id, ok: true, elapsed_ms: 0, result: {} })
    break
  }
  sayOutcome(request.id, async () => execute(nodes, request))
}

await Promise.race([
  Promise.allSettled(nodes.map(node => node.stop())),
  new Promise(resolve => setTimeout(resolve, CLOSE_TIMEOUT_MS))
])
process.exit(0)
