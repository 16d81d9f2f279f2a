// What js-libp2p expects of Node 22 and Node 20 does not have.

Promise.withResolvers ??= function withResolvers () {
  const made = {}
  made.promise = new this((resolve, reject) => Object.assign(made, { resolve, reject }))
  return made
}

const setMethods = {
  union (other) {
    return new Set([...this, ...other.keys()])
  },
  intersection (other) {
    return new Set([...this].filter(element => other.has(element)))
  },
  difference (other) {
    return new Set([...this].filter(element => !other.has(element)))
  }
}

for (const [name, method] of Object.entries(setMethods)) {
  Set.prototype[name] ??= method
}
