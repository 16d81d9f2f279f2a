// One node: a js-libp2p host with its DHT, and the streams that a test asked it to hold.

import { createHash } from 'node:crypto'
import { quic } from '@chainsafe/libp2p-quic'
import { generateKeyPair, generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify, identifyPush } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { ipnsSelector } from 'ipns/selector'
import { ipnsValidator } from 'ipns/validator'
import { createLibp2p } from 'libp2p'
import { explain } from './protocol.js'

export const KAD = '/ipfs/kad/1.0.0'

const SECURITIES = { noise, tls }
const JOIN_TIMEOUT_MS = 15_000
const FIRST_SELF_QUERY_MS = 500
const NEVER_MS = 2 ** 31 - 1

// More than any test opens. The library's own limits are far below what a load test asks for.
const MANY = 100_000

export class Node {
  static async start (options, index) {
    const node = new Node()
    node.privateKey = await identity(options.seed, index)
    node.libp2p = await createLibp2p(settings(options, node.privateKey))
    node.held = new Map()
    return node
  }

  get peerId () { return this.libp2p.peerId }
  get dht () { return this.libp2p.services.dht }
  get addrs () { return this.libp2p.getMultiaddrs().map(String) }

  async join (through) {
    for (const addr of through) {
      try {
        await this.libp2p.dial(multiaddr(addr), { signal: AbortSignal.timeout(JOIN_TIMEOUT_MS) })
      } catch (error) {
        console.error('bootstrap', addr, explain(error))
      }
    }
  }

  async stop () {
    for (const { stream } of this.held.values()) stream.abort(new Error('the node stops'))
    await this.libp2p.stop()
  }
}

function settings (options, privateKey) {
  const unlimited = options.limits === 'none'
  return {
    privateKey,
    nodeInfo: { userAgent: 'codio-dht-test-js-peer' },
    addresses: { listen: options.listen },
    transports: [tcp(), quic()],
    connectionEncrypters: options.security.split(',').map(security),
    streamMuxers: [yamux(unlimited ? { maxInboundStreams: MANY, maxOutboundStreams: MANY } : {})],
    connectionGater: { denyDialMultiaddr: () => false }, // loopback is all there is
    connectionManager: unlimited
      ? { maxConnections: MANY, inboundConnectionThreshold: MANY, maxIncomingPendingConnections: MANY }
      : {},
    services: {
      identify: identify(),
      identifyPush: identifyPush(),
      // Its default of one stream each way refuses a test's ping while the DHT makes its own.
      ping: ping({ maxInboundStreams: 16, maxOutboundStreams: 16 }),
      dht: kadDHT(dhtSettings(options, unlimited))
    }
  }
}

function dhtSettings (options, unlimited) {
  const takeAny = { validators: { v: () => {}, test: () => {} }, selectors: { v: () => 0, test: () => 0 } }
  const ipns = { validators: { ipns: ipnsValidator }, selectors: { ipns: ipnsSelector } } // as Helia does
  const rules = { // the library adds that of /pk
    any: {
      validators: { ...takeAny.validators, ...ipns.validators },
      selectors: { ...takeAny.selectors, ...ipns.selectors }
    },
    amino: ipns
  }[options.values]
  if (rules == null) throw new Error(`--values ${options.values}: any and amino are known`)
  return {
    protocol: KAD,
    clientMode: { server: false, client: true, auto: undefined }[options.mode],
    peerInfoMapper: passthroughMapper,
    allowQueryWithZeroPeers: true,
    initialQuerySelfInterval: options.refresh ? FIRST_SELF_QUERY_MS : NEVER_MS,
    ...(options.refresh ? {} : { querySelfInterval: NEVER_MS }),
    ...(unlimited ? { maxInboundStreams: MANY, maxOutboundStreams: MANY } : {}),
    ...rules
  }
}

function security (name) {
  if (!Object.hasOwn(SECURITIES, name)) throw new Error(`--security ${name}: noise and tls are known`)
  return SECURITIES[name]()
}

function identity (seed, index) {
  if (seed == null) return generateKeyPair('Ed25519')
  const text = `codio-dht interop js ${seed} ${index}`
  return generateKeyPairFromSeed('Ed25519', createHash('sha256').update(text).digest())
}
