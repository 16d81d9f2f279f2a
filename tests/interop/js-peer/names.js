// IPNS as Helia does it: records of the package ipns, put and got by the DHT.

import { peerIdFromString } from '@libp2p/peer-id'
import { createIPNSRecord, marshalIPNSRecord, multihashToIPNSRoutingKey, unmarshalIPNSRecord } from 'ipns'
import { getRecord, putRecord } from './commands.js'

const LIFETIME_MS = 48 * 3600 * 1000

const keyOf = peerId => multihashToIPNSRoutingKey(peerId.toMultihash())

/** Signs a record with the node's own key and puts it. */
export async function publishName (node, { path, sequence }, signal) {
  const record = await createIPNSRecord(node.privateKey, path, sequence ?? 0, LIFETIME_MS)
  await putRecord(node, keyOf(node.peerId), marshalIPNSRecord(record), signal)
  return {}
}

/** Gets the record of a name, which the DHT's validator has checked, and reads it. */
export async function resolveName (node, { peer_id: id }, signal) {
  const value = await getRecord(node, keyOf(peerIdFromString(id)), signal)
  return { path: unmarshalIPNSRecord(value).value }
}
