// Everything that can be asked; arguments and answers are those of go-peer/commands.go. A command
// gets the node, its arguments and a signal that aborts at its deadline.

import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { CID } from 'multiformats/cid'
import { publishName, resolveName } from './names.js'
import { fromHex, toHex } from './protocol.js'
import { closeStream, holdStream, rawRpc } from './streams.js'

const describe = peer => ({
  peer_id: peer.id.toString(),
  addrs: (peer.multiaddrs ?? []).map(String)
})

function recordKey ({ key, key_hex: hex }) {
  const bytes = key ? Uint8Array.from(Buffer.from(key)) : fromHex(hex)
  if (bytes.length === 0) throw new Error('no key given')
  return bytes
}

async function connect (node, { addr }, signal) {
  await node.libp2p.dial(multiaddr(addr), { signal })
  return {}
}

async function disconnect (node, { peer_id: id }, signal) {
  await node.libp2p.hangUp(peerIdFromString(id), { signal })
  return {}
}

async function findPeer (node, { peer_id: id }, signal) {
  const wanted = peerIdFromString(id)
  for await (const event of node.dht.findPeer(wanted, { signal })) {
    if (event.name === 'FINAL_PEER' && event.peer.id.equals(wanted)) return describe(event.peer)
  }
  throw new Error('not found')
}

async function getClosest (node, args, signal) {
  const key = args.peer_id ? peerIdFromString(args.peer_id).toMultihash().bytes : recordKey(args)
  const peers = []
  for await (const event of node.dht.getClosestPeers(key, { signal })) {
    if (event.name === 'FINAL_PEER') peers.push(event.peer.id.toString())
  }
  return { peers }
}

/** Fails if no peer took the record: the library itself would be content with that. */
async function provide (node, { cid }, signal) {
  await sent(node.dht.provide(CID.parse(cid), { signal }), 'ADD_PROVIDER')
  return {}
}

async function putValue (node, args, signal) {
  await putRecord(node, recordKey(args), fromHex(args.value_hex), signal)
  return {}
}

export function putRecord (node, key, value, signal) {
  return sent(node.dht.put(key, value, { signal }), 'PUT_VALUE')
}

async function sent (events, message) {
  const failures = []
  let count = 0
  for await (const event of events) {
    if (event.name === 'QUERY_ERROR') failures.push(event.error.message)
    if (event.name === 'PEER_RESPONSE' && event.messageName === message) count++
  }
  if (count === 0) throw new Error(`no peer took it: ${failures.join('; ')}`)
}

async function findProviders (node, { cid, count }, signal) {
  const found = new Map()
  for await (const event of node.dht.findProviders(CID.parse(cid), { signal })) {
    for (const provider of event.providers ?? []) {
      const known = found.get(provider.id.toString())
      if (!(known?.addrs.length > 0)) found.set(provider.id.toString(), describe(provider))
    }
    if (count > 0 && found.size >= count) break
  }
  return { providers: [...found.values()] }
}

async function getValue (node, args, signal) {
  return { value_hex: toHex(await getRecord(node, recordKey(args), signal)) }
}

export async function getRecord (node, key, signal) {
  for await (const event of node.dht.get(key, { signal })) {
    if (event.name === 'VALUE') return event.value
  }
  throw new Error('not found')
}

async function searchValue (node, args, signal) {
  const started = performance.now()
  const values = []
  for await (const event of node.dht.get(recordKey(args), { signal })) {
    if (event.name === 'VALUE') values.push({ value_hex: toHex(event.value), s: (performance.now() - started) / 1000 })
  }
  return { values }
}

function routingTable (node) {
  return { peers: Array.from(node.dht.routingTable.kb.toIterable(), peer => peer.peerId.toString()) }
}

async function refresh (node, _, signal) {
  await node.dht.refreshRoutingTable({ signal })
  return {}
}

const peers = node => ({ peers: node.libp2p.getPeers().map(String) })

async function protocols (node, { peer_id: id }) {
  const peerId = peerIdFromString(id)
  const known = await node.libp2p.peerStore.get(peerId)
  const agent = known.metadata.get('AgentVersion')
  return {
    protocols: known.protocols,
    agent: agent == null ? '' : Buffer.from(agent).toString(),
    addrs: known.addresses.map(address => address.multiaddr.toString()),
    connections: node.libp2p.getConnections(peerId).map(connection => ({
      addr: connection.remoteAddr.toString(),
      inbound: connection.direction === 'inbound',
      muxer: connection.multiplexer ?? '',
      security: connection.encryption ?? '',
      streams: connection.streams.length
    }))
  }
}

async function ping (node, { peer_id: id }, signal) {
  return { rtt_ms: await node.libp2p.services.ping.ping(peerIdFromString(id), { signal }) }
}

export const commands = {
  connect,
  disconnect,
  find_peer: findPeer,
  get_closest: getClosest,
  provide,
  find_providers: findProviders,
  put_value: putValue,
  get_value: getValue,
  publish_name: publishName,
  resolve_name: resolveName,
  search_value: searchValue,
  routing_table: routingTable,
  refresh,
  peers,
  protocols,
  ping,
  raw_rpc: rawRpc,
  hold_stream: holdStream,
  close_stream: closeStream
}
