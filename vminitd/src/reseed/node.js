// Costrel's: makes random numbers out of the kernel's, which differ in every process that is
// restored from the same one; those of V8 and OpenSSL would not. See vminitd/src/reseed.rs.
'use strict';

const crypto = require('crypto');
const { openSync, readSync } = require('fs');

const device = openSync('/dev/urandom', 'r');

function fill(bytes) {
  for (let at = 0; at < bytes.length;) {
    at += readSync(device, bytes, at, bytes.length - at, null);
  }
  return bytes;
}

// Each function calls the one that it replaces, which checks the arguments, and then fills again
// what that has filled.

function filled(view, offset = 0, size = undefined) {
  const unit = view.BYTES_PER_ELEMENT || 1;
  const start = offset * unit;
  const length = size === undefined ? view.byteLength - start : size * unit;
  return fill(new Uint8Array(view.buffer || view, (view.byteOffset || 0) + start, length));
}

const hex = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

function uuid() {
  const bytes = fill(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const text = Array.from(bytes, (byte) => hex[byte]).join('');
  return text.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

function below(range) {
  const buffer = Buffer.alloc(6);
  const limit = 2 ** 48 - (2 ** 48 % range);
  for (;;) {
    const number = fill(buffer).readUIntBE(0, 6);
    if (number < limit) return number % range;
  }
}

function replace(object, name, make) {
  const property = Object.getOwnPropertyDescriptor(object, name);
  if (typeof property?.value !== 'function') return;
  const value = make(property.value);
  Object.defineProperty(value, 'name', { value: name, configurable: true });
  Object.defineProperty(object, name, { ...property, value });
}

for (const name of ['randomBytes', 'rng', 'prng', 'pseudoRandomBytes']) {
  replace(crypto, name, (native) => (size, callback) => {
    if (callback === undefined) return fill(native(size));
    if (typeof callback !== 'function') return native(size, callback);
    return native(size, (error, bytes) => callback(error, bytes && fill(bytes)));
  });
}

replace(crypto, 'randomFillSync', (native) => (view, offset, size) => {
  native(view, offset, size);
  filled(view, offset, size);
  return view;
});

replace(crypto, 'randomFill', (native) => (view, ...rest) => {
  const callback = rest.pop();
  if (typeof callback !== 'function') return native(view, ...rest, callback);
  return native(view, ...rest, (error, same) => {
    if (!error) filled(view, ...rest);
    callback(error, same);
  });
});

replace(crypto, 'randomInt', (native) => (...given) => {
  const callback = typeof given.at(-1) === 'function' ? given.pop() : undefined;
  const [max, min] = [given.at(-1), given.length > 1 && given[1] !== undefined ? given[0] : 0];
  if (callback === undefined) {
    native(...given);
    return min + below((given[1] === undefined ? given[0] : max) - min);
  }
  return native(...given, (error, number) => {
    callback(error, number === undefined ? number : min + below(max - min));
  });
});

replace(crypto, 'randomUUID', (native) => (options) => (native(options), uuid()));

const web = Object.getPrototypeOf(crypto.webcrypto);
replace(web, 'getRandomValues', (native) => function (view) {
  native.call(this, view);
  return filled(view), view;
});
replace(web, 'randomUUID', (native) => function () {
  return native.call(this), uuid();
});

// Chris Doty-Humphrey's sfc32. What the kernel gives is mixed in whenever a new piece of JavaScript
// begins to draw: while the process waits to be saved, none is under way.
if (!process.execArgv.concat(process.env.NODE_OPTIONS ?? '').join(' ').includes('--random-seed')) {
  const state = new Uint32Array(4);
  const fresh = new Uint32Array(4);
  const settled = Promise.resolve();
  let isFresh = false;
  const next = () => {
    const sum = (((state[0] + state[1]) | 0) + state[3]) | 0;
    state[3] += 1;
    state[0] = state[1] ^ (state[1] >>> 9);
    state[1] = state[2] + (state[2] << 3);
    state[2] = ((state[2] << 21) | (state[2] >>> 11)) + sum;
    return sum >>> 0;
  };
  replace(Math, 'random', () => () => {
    if (!isFresh) {
      filled(fresh);
      for (let index = 0; index < 4; index++) state[index] ^= fresh[index];
      for (let round = 0; round < 12; round++) next();
      isFresh = true;
      settled.then(() => { isFresh = false; });
    }
    return ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53;
  });
}

require('module').syncBuiltinESMExports();
