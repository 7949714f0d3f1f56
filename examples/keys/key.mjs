// The key of inputs, as docs/precompute.md specifies it. Node.js 18. `node key.mjs vectors.txt` checks the vectors.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The canonical form of fields, an object whose values were written by the functions below. Names are ASCII. */
export function canonical(fields) {
  const lines = Object.keys(fields).sort().map((name) => `${name}=${fields[name]}\n`);
  return "penstock-key-1\n" + lines.join("");
}

export function key(fields) {
  return createHash("sha256").update(canonical(fields), "utf8").digest("hex");
}

export const nothing = () => "n";
export const bool = (value) => (value ? "true" : "false");
/** A BigInt, where it may be beyond 2 ** 53. */
export const whole = (value) => `i${BigInt(value)}`;
/** Microseconds since 1970-01-01T00:00:00Z, as a BigInt or a number: of a Date, `date.getTime() * 1000`. */
export const time = (micros) => `t${BigInt(micros)}`;

/** Of the exact binary value, ties to the even digit. (`toFixed` gives ties away from zero, and ends at 1e21.) */
export function number(value, decimals) {
  if (!Number.isFinite(value)) throw new RangeError(`${value} has no decimal digits`);
  const bits = new DataView(new ArrayBuffer(8));
  bits.setFloat64(0, value);
  const high = bits.getUint32(0);
  const exponent = (high >>> 20) & 0x7ff;
  const fraction = (BigInt(high & 0xfffff) << 32n) | BigInt(bits.getUint32(4));
  const power = BigInt(Math.max(exponent, 1) - 1075); // value = mantissa * 2 ** power
  let top = (exponent ? fraction | (1n << 52n) : fraction) * 10n ** BigInt(decimals);
  let bottom = 1n;
  if (power >= 0n) top <<= power;
  else bottom <<= -power;
  let units = top / bottom;
  const twice = (top % bottom) * 2n;
  if (twice > bottom || (twice === bottom && units % 2n === 1n)) units += 1n;
  const digits = units.toString().padStart(decimals + 1, "0");
  const sign = high >>> 31 && units ? "-" : "";
  const point = digits.length - decimals;
  return `d${sign}${digits.slice(0, point)}${decimals ? "." + digits.slice(point) : ""}`;
}

/** Of a field of the type float: the value is rounded to 32 bits first. */
export const single = (value, decimals) => number(Math.fround(value), decimals);
export const text = (value) => `s${Buffer.byteLength(value, "utf8")}:${value}`;
export const list = (items) => `[${items.map((item) => item + ",").join("")}]`;

// -- the vectors: lines of NAME KIND DECIMALS VALUE, then `key HEX`; text is in hex of its UTF-8 ------------------------

function value(kind, decimals, given) {
  if (kind.endsWith("[]")) return list(given ? given.split(";").map((item) => value(kind.slice(0, -2), decimals, item)) : []);
  switch (kind) {
    case "null": return nothing();
    case "boolean": return bool(given === "true");
    case "long": return whole(BigInt(given));
    case "timestamp": return time(BigInt(given));
    case "double": return number(Number(given), decimals);
    case "float": return single(Number(given), decimals);
    case "string": return text(Buffer.from(given, "hex").toString("utf8"));
    default: throw new TypeError(kind);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  let fields = {};
  let checked = 0;
  for (const line of readFileSync(process.argv[2], "ascii").split("\n")) {
    if (!line || line.startsWith("#")) continue;
    const part = line.split(" ");
    if (part[0] !== "key") {
      fields[part[0]] = value(part[1], Number(part[2]), part[3]);
      continue;
    }
    if (key(fields) !== part[1]) {
      console.error(`differs: ${part[1]}\n${canonical(fields)}`);
      process.exit(1);
    }
    fields = {};
    checked += 1;
  }
  console.log(`${checked} keys are equal`);
}
