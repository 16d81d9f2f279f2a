// The lines, as described in go-peer/protocol.go.

export function say (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

export async function sayOutcome (id, work) {
  const started = performance.now()
  const elapsed = () => Math.round((performance.now() - started) * 1000) / 1000
  try {
    const result = await work()
    say({ id, ok: true, elapsed_ms: elapsed(), result })
  } catch (error) {
    say({ id, ok: false, elapsed_ms: elapsed(), error: explain(error) })
  }
}

export function explain (error) {
  return error instanceof AggregateError
    ? `${error.name}: ${error.errors.map(explain).join('; ')}`
    : `${error.name}: ${error.message}`
}

export const toHex = bytes => Buffer.from(bytes).toString('hex')
export const fromHex = text => Uint8Array.from(Buffer.from(text ?? '', 'hex'))
