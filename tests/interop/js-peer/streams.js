// Requests by hand, byte for byte: raw_rpc, hold_stream and close_stream of go-peer/streams.go.

import { peerIdFromString } from '@libp2p/peer-id'
import { byteStream } from '@libp2p/utils'
import { KAD } from './node.js'
import { fromHex, toHex } from './protocol.js'

const MAX_REPLY_BYTES = 4 << 20

export async function rawRpc (node, args, signal) {
  if (args.stream) return exchange(find(node, args.stream), args, signal)
  const opened = await open(node, args, signal)
  const outcome = await exchange(opened, args, signal)
  await opened.stream.close({ signal }).catch(() => {}) // what mattered is known
  return outcome
}

export async function holdStream (node, args, signal) {
  if (!args.stream || node.held.has(args.stream)) {
    throw new Error(`a new name is needed in stream, not ${JSON.stringify(args.stream)}`)
  }
  const opened = await open(node, args, signal)
  node.held.set(args.stream, opened)
  return exchange(opened, args, signal)
}

export async function closeStream (node, args, signal) {
  const { stream } = find(node, args.stream)
  node.held.delete(args.stream)
  await stream.close({ signal })
  return {}
}

function find (node, name) {
  const held = node.held.get(name)
  if (held == null) throw new Error(`no stream is held as ${JSON.stringify(name)}`)
  return held
}

async function open (node, { peer_id: id }, signal) {
  const stream = await node.libp2p.dialProtocol(peerIdFromString(id), KAD, { signal })
  return { stream, bytes: byteStream(stream), turn: Promise.resolve() }
}

/** One request at a time on a stream: replies are matched by order. */
function exchange (opened, args, signal) {
  const mine = opened.turn.then(() => sendAndRead(opened, args, signal))
  opened.turn = mine.catch(() => {})
  return mine
}

async function sendAndRead ({ stream, bytes }, args, signal) {
  const message = fromHex(args.request_hex)
  try {
    await bytes.write(args.framed ? message : Buffer.concat([varint(message.length), message]), { signal })
    if (args.half_close) await stream.close({ signal })
    if (args.no_reply) return { outcome: 'sent' }
    return { outcome: 'reply', reply_hex: toHex(await readFrame(bytes, signal)) }
  } catch (error) {
    if (signal.aborted) return { outcome: 'timeout' }
    if (stream.status === 'reset' || error.name === 'StreamResetError') return { outcome: 'reset' }
    if (error.name === 'UnexpectedEOFError') return { outcome: 'eof' }
    throw error
  }
}

async function readFrame (bytes, signal) {
  let length = 0
  for (let scale = 1; ; scale *= 0x80) {
    const [byte] = (await bytes.read({ bytes: 1, signal })).subarray()
    length += (byte & 0x7f) * scale
    if (length > MAX_REPLY_BYTES) throw new Error(`a reply of ${length} bytes`)
    if (byte < 0x80) break
  }
  return length === 0 ? new Uint8Array() : (await bytes.read({ bytes: length, signal })).subarray()
}

function varint (value) {
  const encoded = []
  for (; value >= 0x80; value = Math.floor(value / 0x80)) encoded.push((value & 0x7f) | 0x80)
  return Uint8Array.of(...encoded, value)
}
