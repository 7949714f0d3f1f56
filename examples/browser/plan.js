// Scores events by the plan of `penstock export edge`, with onnxruntime-web or onnxruntime-node: events in, answers out, as Penstock does it.
//
// 1. Every file is compared with SHA256SUMS before it is used.
// 2. An event is checked field by field, as msgspec checks it in Penstock, and refused with the same reason.
// 3. The columns of all events feed the models in the order of the plan; the fields of the sink are taken from the outputs.
//
// What a plan may hold and this page does not compute is an error when it is opened: conditions, several stages, arrays in events.
// JSON in JavaScript knows no whole numbers: 1.0 is 1 here, and Penstock refuses it in an `int`.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array, bool: Uint8Array, string: Array,
};
const TYPES = { boolean: "bool", int: "int", long: "int", timestamp: "int", float: "float", double: "float", string: "str", enum: "str" };
const RANGES = { int: [-2147483648, 2147483647], float: [-3.4028234663852886e38, 3.4028234663852886e38] };

class Refused extends Error {}

/** Opens an exported folder. `ort` is the module of onnxruntime, `read(path)` returns a promise of a file's bytes (Uint8Array). */
export async function open(ort, read) {
  const text = (bytes) => new TextDecoder().decode(bytes);
  const listed = new Map(text(await read("SHA256SUMS")).trimEnd().split("\n").map((line) => [line.slice(66), line.slice(0, 64)]));
  const checked = async (path) => {
    const bytes = await read(path);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    if (Array.from(digest, (one) => one.toString(16).padStart(2, "0")).join("") !== listed.get(path)) {
      throw new Error(`${path} is not the file that was exported`);
    }
    return bytes;
  };
  const plan = JSON.parse(text(await checked("plan.json")));
  const stage = supported(plan);
  const sessions = new Map();
  for (const { model } of stage.steps) {
    if (!sessions.has(model)) sessions.set(model, await ort.InferenceSession.create(await checked(model), { executionProviders: EP }));
  }
  return new Scorer(ort, stage, sessions);
}

const EP = typeof window === "undefined" ? ["cpu"] : ["wasm"];

/** Returns the stage of a plan that this page can compute. */
function supported(plan) {
  const stage = plan.stages[0];
  const kinds = new Map(stage.fields.map((field) => [field.name, field.kind]));
  const lacks = [
    [plan.format !== 1, `a plan of the format ${plan.format}`],
    [plan.stages.length > 1, "several stages"],
    [stage.envelope || stage.coerce, "envelopes and other forms of values"],
    [stage.fields.some((field) => field.dated), "dates as text"],
    [stage.steps.some((step) => step.when) || stage.sinks.some((sink) => sink.when), "conditions"],
    [stage.columns.some((column) => column.shape.length || !(kinds.get(column.field) in TYPES)), "arrays, fields inside others, keys and headers"],
    [stage.steps.some((step) => step.inputs.some((input) => input.how)), "arrays as tensors"],
    [stage.sinks.some((sink) => sink.fields.some((field) => field.shape.length > 1)), "arrays in arrays"],
  ];
  const lacking = lacks.filter(([lack]) => lack).map(([, what]) => what);
  if (lacking.length) throw new Error(`this page does not compute ${lacking.join(", nor ")}`);
  return stage;
}

class Scorer {
  constructor(ort, stage, sessions) {
    Object.assign(this, { ort, stage, sessions });
  }

  /** Returns the answer to each event: an object by sink, of the one sink alone where there is one; `{failure}` for a refused event. */
  async score(events) {
    const answers = new Array(events.length);
    const rows = [];
    events.forEach((event, at) => {
      try {
        rows.push({ at, values: this.decode(event) });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        answers[at] = { failure: error.message };
      }
    });
    await this.run(rows, answers);
    return answers;
  }

  /** Returns the values of the columns. Throws Refused with the reason that Penstock gives. */
  decode(event) {
    const found = new Map(this.stage.fields.map((field) => [field.name, valueOf(field, event)]));
    return this.stage.columns.map((column) => {
      const value = found.get(column.field);
      if (value !== null) return value;
      if ("fill" in column) return typeof column.fill === "string" && column.dtype !== "string" ? Number(column.fill) : column.fill;
      throw new Refused(`field '${column.field}' is null, and the topology gives no value for nulls (add it under \`missing:\`)`);
    });
  }

  /** Runs the models over the rows, and fills in their answers. A run that fails is repeated row by row, to find the guilty ones. */
  async run(rows, answers) {
    if (!rows.length) return;
    const columns = new Map(
      this.stage.columns.map((column, at) => [column.name, array(column.dtype, [rows.length], rows.map((row) => row.values[at]))]),
    );
    try {
      for (const step of this.stage.steps) {
        const feeds = Object.fromEntries(step.inputs.map((input) => [input.name, this.tensor(input, columns, rows.length)]));
        const doubts = step.doubts ?? [];
        const outputs = [...step.outputs.map((output) => output.name), ...doubts.flatMap(({ ok, free }) => [ok, ...free])];
        const found = await this.sessions.get(step.model).run(feeds, outputs).catch((error) => {
          throw new Refused(`${step.label} cannot score the event: ${error.message}`);
        });
        for (const { ok, free, reasons } of doubts) {
          rows.forEach((row, at) => {
            const which = free.findIndex((one) => !found[one].data[at]);
            if (!found[ok].data[at]) row.failure ??= reasons[which < 0 ? free.length : which];
          });
        }
        for (const { name, column } of step.outputs) columns.set(column, { dtype: found[name].type, dims: found[name].dims, data: found[name].data });
      }
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (rows.length > 1) for (const row of rows) await this.run([row], answers);
      else answers[rows[0].at] = { failure: error.message };
      return;
    }
    const sinks = this.stage.sinks.map((sink) => [sink.sink, sink.fields.map((field) => [field, picked(field.from, columns)])]);
    rows.forEach(({ at, failure }, row) => {
      try {
        if (failure !== undefined) throw new Refused(failure);
        const made = sinks.map(([sink, fields]) => [sink, Object.fromEntries(fields.map(([field, column]) => [field.name, cell(field, column, row)]))]);
        answers[at] = made.length === 1 ? made[0][1] : Object.fromEntries(made);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        answers[at] = { failure: error.message };
      }
    });
  }

  /** Returns the tensor of an input: a column, several of them stacked along the last axis, or a constant for every row. */
  tensor(input, columns, size) {
    let made;
    if ("constant" in input) {
      const row = [input.constant].flat(Infinity);
      made = array(input.dtype, [size, ...(row.length > 1 ? [row.length] : [])], Array.from({ length: size }, () => row).flat());
    } else {
      const parts = input.parts.map((part) => picked(part, columns));
      made = parts.length === 1 && !input.stacked ? parts[0] : joined(parts, size);
    }
    const dims = made.dims.slice(0, input.shape.length + 1);
    while (dims.length < input.shape.length + 1) dims.push(1);
    return new this.ort.Tensor(input.dtype, made.data, dims);
  }
}

/** Returns the value of a field, null where there is none. Throws Refused. */
function valueOf(field, event) {
  if (event === null || typeof event !== "object" || Array.isArray(event)) throw new Refused(`Expected \`object\`, got \`${typeName(event)}\``);
  const name = [field.name, ...(field.aliases ?? [])].find((one) => Object.hasOwn(event, one));
  if (name === undefined) {
    if ("default" in field) return field.default;
    throw new Refused(`Object missing required field \`${field.name}\``);
  }
  const value = event[name];
  if (value === null && field.nullable) return null;
  const expected = TYPES[field.kind];
  if (expected === undefined) return value; // nothing reads it: see `supported`
  const got = typeName(value);
  if (got !== expected && !(expected === "float" && got === "int")) {
    throw new Refused(`Expected \`${expected}${field.nullable ? " | null" : ""}\`, got \`${got}\` - at \`$.${name}\``);
  }
  const [low, high] = RANGES[field.kind] ?? [-Infinity, Infinity];
  if (value < low) throw new Refused(`Expected \`${expected}\` >= ${low} - at \`$.${name}\``);
  if (value > high) throw new Refused(`Expected \`${expected}\` <= ${high} - at \`$.${name}\``);
  if (field.kind === "enum" && !field.symbols.includes(value)) {
    if (field.fallback !== undefined) return field.fallback;
    throw new Refused(`Invalid enum value '${value}' - at \`$.${name}\``);
  }
  return value;
}

function typeName(value) {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "number") return Number.isInteger(value) ? "int" : "float";
  return { boolean: "bool", string: "str", object: "object" }[typeof value];
}

/** Returns a column: its values in row-major order as the array that onnxruntime takes. */
function array(dtype, dims, values) {
  const big = dtype === "int64" || dtype === "uint64";
  return { dtype, dims, data: ARRAYS[dtype].from(big ? values.map(BigInt) : values) };
}

/** Returns a column, or one element of its last axis. */
function picked(part, columns) {
  const column = columns.get(part.column);
  if (part.index === undefined) return column;
  const width = column.dims.at(-1);
  const dims = column.dims.slice(0, -1);
  return { dtype: column.dtype, dims, data: column.data.filter((_, at) => at % width === part.index) };
}

/** Returns columns side by side: single values stacked, others concatenated along the last axis. */
function joined(parts, size) {
  const widths = parts.map((part) => part.data.length / size);
  const width = widths.reduce((sum, one) => sum + one, 0);
  const data = parts[0].data instanceof Array ? new Array(size * width) : new parts[0].data.constructor(size * width);
  let begin = 0;
  parts.forEach((part, at) => {
    for (let row = 0; row < size; row++) for (let one = 0; one < widths[at]; one++) data[row * width + begin + one] = part.data[row * widths[at] + one];
    begin += widths[at];
  });
  return { dtype: parts[0].dtype, dims: [size, width], data };
}

/** Returns the value of a field of the sink. Throws Refused for a number that JSON cannot hold. */
function cell(field, column, row) {
  const width = column.data.length / column.dims[0];
  const values = Array.from(column.data.slice(row * width, (row + 1) * width), (value) => {
    if (typeof value === "number" && !Number.isFinite(value)) throw new Refused(`field '${field.name}' is not a finite number`);
    return typeof value === "bigint" ? Number(value) : column.dtype === "bool" ? Boolean(value) : value;
  });
  return field.shape.length ? values : values[0];
}
