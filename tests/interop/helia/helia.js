// One or many Helia nodes (--count) in one process, as a program makes them: the blocks and names of
// Helia, and its routing by libp2p's DHT, of which they are clients. A test drives them with JSON lines
// as those of go-peer/protocol.go. The log is stderr. The process ends when its stdin ends.
//
// What is not Helia's default is what a network of loopback needs: the protocol id of the public DHT
// with addresses of loopback taken, no bootstrap peers of the public network, no delegated routers.

import { createInterface } from 'node:readline'
import { withBitswap } from '@helia/bitswap'
import { ipns } from '@helia/ipns'
import { withLibp2pLight } from '@helia/libp2p'
import { unixfs } from '@helia/unixfs'
import { identify, identifyPush } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { noise } from '@libp2p/noise'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'

const DEFAULT_COMMAND_TIMEOUT_S = 30
const COUNT = Number(process.argv[process.argv.indexOf('--count') + 1] || 1)

process.on('unhandledRejection', error => console.error('unhandled:', error))

function settings () {
  return {
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise(), tls()],
    streamMuxers: [yamux()],
    connectionGater: { denyDialMultiaddr: () => false },
    services: {
      identify: identify(),
      identifyPush: identifyPush(),
      ping: ping(),
      dht: kadDHT({ protocol: '/ipfs/kad/1.0.0', clientMode: true, peerInfoMapper: passthroughMapper })
    }
  }
}

async function start () {
  const helia = withBitswap(withLibp2pLight(createHeliaLight(), settings()))
  await helia.start()
  return { helia, libp2p: helia.libp2p, files: unixfs(helia), names: ipns(helia), published: new Map() }
}

const describe = peer => ({ peer_id: peer.id.toString(), addrs: (peer.multiaddrs ?? []).map(String) })

async function all (source, limit) {
  const found = []
  for await (const item of source) {
    found.push(item)
    if (found.length >= limit) break
  }
  return found
}

const commands = {
  async connect ({ libp2p }, { addr }, signal) {
    await libp2p.dial(multiaddr(addr), { signal })
  },
  routing_table: ({ libp2p }) => ({
    peers: Array.from(libp2p.services.dht.routingTable.kb.toIterable(), peer => peer.peerId.toString())
  }),
  peers: ({ libp2p }) => ({ peers: libp2p.getPeers().map(String) }),
  async add ({ files }, { value_hex: hex }, signal) {
    return { cid: (await files.addBytes(Uint8Array.from(Buffer.from(hex, 'hex')), { signal })).toString() }
  },
  async cat ({ files }, { cid }, signal) {
    return { value_hex: Buffer.concat(await all(files.cat(CID.parse(cid), { signal }), Infinity)).toString('hex') }
  },
  async provide ({ helia }, { cid }, signal) {
    await helia.routing.provide(CID.parse(cid), { signal })
  },
  async find_providers ({ helia }, { cid, count }, signal) {
    const found = await all(helia.routing.findProviders(CID.parse(cid), { signal }), count || Infinity)
    return { providers: found.map(describe) }
  },
  async find_peer ({ helia }, { peer_id: id }, signal) {
    return describe(await helia.routing.findPeer(peerIdFromString(id).toCID(), { signal }))
  },
  /** Under a key of its own, called `key`; the name is the id of that key. */
  async publish_name ({ names }, { key, path }, signal) {
    const { publicKey } = await names.publish(key, CID.parse(path.replace('/ipfs/', '')), { signal })
    return { name: publicKey.toCID().toString() }
  },
  async resolve_name ({ names }, { peer_id: name }, signal) {
    const result = names.resolve(CID.parse(name), { signal })
    const found = result[Symbol.asyncIterator] == null ? await result : (await all(result, Infinity)).at(-1)
    return { path: String(found.record?.value ?? `/ipfs/${found.cid}`) }
  }
}

const say = line => process.stdout.write(JSON.stringify(line) + '\n')

async function answer (nodes, { id, peer = 0, command, args = {}, timeout_s: seconds }) {
  const began = performance.now()
  const elapsed = () => performance.now() - began
  try {
    if (!Object.hasOwn(commands, command)) throw new Error(`unknown command ${JSON.stringify(command)}`)
    const signal = AbortSignal.timeout((seconds || DEFAULT_COMMAND_TIMEOUT_S) * 1000)
    const result = await commands[command](nodes[peer], args, signal)
    say({ id, ok: true, elapsed_ms: elapsed(), result: result ?? {} })
  } catch (error) {
    say({ id, ok: false, elapsed_ms: elapsed(), error: `${error.name}: ${error.message}` })
  }
}

const nodes = []
for (let index = 0; index < COUNT; index++) nodes.push(await start())
say({
  ready: true,
  implementation: 'helia',
  peers: nodes.map(({ libp2p }) => ({
    peer_id: libp2p.peerId.toString(), addrs: libp2p.getMultiaddrs().map(String)
  }))
})
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line)
  if (request.command === 'quit') {
    say({ id: request.id, ok: true, elapsed_ms: 0, result: {} })
    break
  }
  answer(nodes, request)
}
process.exit(0)
