/* The optional native part of Penstock: work per event that is slow in Python.
 *
 *   crc32c(data) -> int                   checksum of a record batch
 *   encode_records(...) -> (body, first, latest)   outputs -> the records of a batch, message format 2
 *   weigh(inputs, keys, values) -> int    bytes of the keys and values of outputs
 *   unpack_fetch(data, least) -> ([Record], next)    the records of fetched batches, uncompressed
 *   unpack_records(header, body, least) -> [Record]  the records of one batch that was decompressed
 *   shortest(float32s, float64s)          each float32 as the double with its shortest digits
 *   fold_windows(arrays, include_self)    rows through the rings of keyed windows
 *   pack_windows(arrays, latest) -> [bytes]   the state of keys as the values of changelog records
 *   JsonColumns(fields, max_bytes).decode(values, blocks) -> [row, ...]   plain JSON events -> columns
 *
 * Every function has a counterpart in Python, which is the reference. Unusual input is not handled here: the function
 * raises, returns None or, for JSON, returns the row number, and the caller uses Python. The one rule: input that is
 * accepted here is also accepted by Python, with an equal result (tests/properties/test_native.py).
 *
 * Bytes objects end with a NUL that is not counted. The JSON parser relies on it: it only steps over bytes that it has
 * recognised, and NUL is never one of them, so no step leaves the value. Code that reads further ahead checks `end`.
 */

/* The limited API of CPython 3.11: one binary serves 3.11 and every later version (docs/decisions/0014). */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if !defined(FLT_EVAL_METHOD) || FLT_EVAL_METHOD != 0
#error "the exact path of decimals needs arithmetic in double; without this module, Python is used"
#endif

typedef unsigned char byte;

/* -- what the limited API lacks ------------------------------------------------------------------------------------
 * The short accessors read CPython's structs; the limited API has checked functions instead. Measured: 0.07 µs per
 * event, less than 1 % of a worker's (docs/decisions/0014). */

#define PyBytes_AS_STRING PyBytes_AsString
#define PyBytes_GET_SIZE PyBytes_Size
#define PyDict_GET_SIZE PyDict_Size
#define PyTuple_GET_ITEM PyTuple_GetItem
#define PyTuple_GET_SIZE PyTuple_Size
#define PyTuple_SET_ITEM PyTuple_SetItem
#define PyUnicode_GET_LENGTH PyUnicode_GetLength
#define PyUnicode_1BYTE_DATA(text) ((const byte *)PyUnicode_AsUTF8AndSize(text, NULL)) /* for ASCII, its UTF-8 has the same bytes */

static bool PyUnicode_IS_ASCII(PyObject *text) {
    Py_ssize_t size;
    if (!PyUnicode_AsUTF8AndSize(text, &size)) /* a lone surrogate */
        PyErr_Clear();
    else if (size == PyUnicode_GetLength(text))
        return true;
    return false;
}

/* Like the private function: the bytes have one owner, and NULL replaces them after an error. It copies; bodies are rarely resized. */
static int resize_bytes(PyObject **bytes, Py_ssize_t size) {
    PyObject *old = *bytes;
    Py_ssize_t kept = PyBytes_Size(old) < size ? PyBytes_Size(old) : size;
    *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (*bytes)
        memcpy(PyBytes_AsString(*bytes), PyBytes_AsString(old), (size_t)kept);
    Py_DECREF(old);
    return *bytes ? 0 : -1;
}

#define _PyBytes_Resize resize_bytes
#define Py_XSETREF(slot, made) \
    do { PyObject *old = (PyObject *)(slot); (slot) = (made); Py_XDECREF(old); } while (0)

/* -- crc32c -------------------------------------------------------------------------------------------------------- */

static uint32_t crc_table[8][256];

static void crc_prepare(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
        crc_table[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            crc_table[k][i] = (crc_table[k - 1][i] >> 8) ^ crc_table[0][crc_table[k - 1][i] & 0xFF];
}

static uint32_t crc_sliced(uint32_t crc, const byte *p, Py_ssize_t left) {
    for (; left >= 8; p += 8, left -= 8) {
        crc ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        crc = crc_table[7][crc & 0xFF] ^ crc_table[6][crc >> 8 & 0xFF] ^ crc_table[5][crc >> 16 & 0xFF] ^ crc_table[4][crc >> 24]
            ^ crc_table[3][p[4]] ^ crc_table[2][p[5]] ^ crc_table[1][p[6]] ^ crc_table[0][p[7]];
    }
    for (; left > 0; p++, left--)
        crc = (crc >> 8) ^ crc_table[0][(crc ^ *p) & 0xFF];
    return crc;
}

static uint32_t (*crc_update)(uint32_t, const byte *, Py_ssize_t) = crc_sliced;

#if defined(__x86_64__) && defined(__GNUC__)
#define CRC_IN_HARDWARE
#include <cpuid.h>
#ifdef __clang__
#define WITH_CRC "sse4.2,crc32" /* for clang the instruction is a separate feature, which GCC before 11 does not know */
#else
#define WITH_CRC "sse4.2"
#endif
__attribute__((target(WITH_CRC))) static uint32_t crc_hardware(uint32_t crc, const byte *p, Py_ssize_t left) {
    uint64_t wide = crc;
    for (; left >= 8; p += 8, left -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; left > 0; p++, left--)
        crc = __builtin_ia32_crc32qi(crc, *p);
    return crc;
}
#endif

static PyObject *crc32c(PyObject *module, PyObject *args) {
    Py_buffer view;
    int portable = 0; /* for tests: the code without the instruction */
    if (!PyArg_ParseTuple(args, "y*|p:crc32c", &view, &portable))
        return NULL;
    uint32_t crc = (portable ? crc_sliced : crc_update)(0xFFFFFFFFu, view.buf, view.len) ^ 0xFFFFFFFFu;
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(crc);
}

/* An object of a heap type owns a reference to its type. */
static void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* -- Record: a fetched record ----------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    long long offset, timestamp;
    PyObject *key, *value, *headers; /* bytes, str and tuples of them: cycles are impossible, so it needs no garbage collection */
} Record;

static void record_free(Record *self) {
    Py_XDECREF(self->key);
    Py_XDECREF(self->value);
    Py_XDECREF(self->headers);
    free_object((PyObject *)self);
}

static PyMemberDef record_members[] = {
    {"offset", T_LONGLONG, offsetof(Record, offset), READONLY, NULL},
    {"timestamp", T_LONGLONG, offsetof(Record, timestamp), READONLY, "ms since the epoch, UTC"},
    {"key", T_OBJECT_EX, offsetof(Record, key), READONLY, NULL},
    {"value", T_OBJECT_EX, offsetof(Record, value), READONLY, NULL},
    {"headers", T_OBJECT_EX, offsetof(Record, headers), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot record_slots[] = {
    {Py_tp_doc, "A record of a fetched batch, a penstock.record.RecordLike."},
    {Py_tp_dealloc, record_free},
    {Py_tp_members, record_members},
    {0, NULL},
};

static PyType_Spec record_spec = {
    .name = "penstock._native.Record",
    .basicsize = sizeof(Record),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = record_slots,
};

static PyTypeObject *RecordType; /* created from the specification when the module is imported */

/* -- unpack_fetch: fetched batches to records ---------------------------------------------------------------- */

typedef struct {
    const byte *p, *end;
    bool bad;
} Reader;

static int64_t read_varint(Reader *r) {
    uint64_t raw = 0;
    for (int shift = 0; shift < 64 && r->p < r->end; shift += 7) {
        byte b = *r->p++;
        raw |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80))
            return (int64_t)(raw >> 1) ^ -(int64_t)(raw & 1);
    }
    r->bad = true;
    return 0;
}

/* Returns new bytes, None for the length -1; NULL when the reader is bad or memory is exhausted. */
static PyObject *read_sized(Reader *r) {
    int64_t size = read_varint(r);
    if (r->bad || size > r->end - r->p) {
        r->bad = true;
        return NULL;
    }
    if (size < 0)
        Py_RETURN_NONE;
    PyObject *made = PyBytes_FromStringAndSize((const char *)r->p, (Py_ssize_t)size);
    r->p += size;
    return made;
}

/* Headers of a fetch that are read at once: two bytes become two objects. Python reads more than that piece by piece. */
enum { MOST_HEADERS = 65536 };

static PyObject *read_headers(Reader *r, int64_t *left) {
    int64_t count = read_varint(r);
    if (r->bad || count < 0 || count > (r->end - r->p) / 2 || count > *left) { /* a header has at least two lengths */
        r->bad = true;
        return NULL;
    }
    *left -= count;
    PyObject *headers = PyTuple_New((Py_ssize_t)count);
    for (Py_ssize_t i = 0; headers && i < count; i++) {
        PyObject *name = NULL, *value = NULL, *pair = NULL;
        int64_t size = read_varint(r);
        if (r->bad || size < 0 || size > r->end - r->p)
            r->bad = true;
        else {
            name = PyUnicode_DecodeUTF8((const char *)r->p, (Py_ssize_t)size, "replace"); /* as Java's clients read it */
            r->p += size;
        }
        if (name && (value = read_sized(r)))
            pair = PyTuple_Pack(2, name, value);
        Py_XDECREF(name);
        Py_XDECREF(value);
        if (pair)
            PyTuple_SET_ITEM(headers, i, pair);
        else
            Py_CLEAR(headers);
    }
    return headers;
}

static uint64_t big_endian(const byte *p, int size) {
    uint64_t number = 0;
    while (size--)
        number = number << 8 | *p++;
    return number;
}

enum {
    LENGTH_AT = 8, MAGIC_AT = 16, CRC_AT = 17, ATTRIBUTES_AT = 21, LAST_AT = 23, FIRST_AT = 27, LATEST_AT = 35, COUNT_AT = 57, BATCH_HEADER = 61,
};
enum { COMPRESSED = 7, APPEND_TIME = 8, CONTROL = 32 }; /* attributes of a batch */

/* Appends the records in [body, end) from offset `least` on; they may have so many `headers`. False with an exception, or without one when they are not all plain. */
static bool append_batch(PyObject *records, const byte *head, const byte *body, const byte *end, long long least, int64_t *headers) {
    int attributes = (int)big_endian(head + ATTRIBUTES_AT, 2);
    uint64_t base = big_endian(head, 8), first = big_endian(head + FIRST_AT, 8), latest = big_endian(head + LATEST_AT, 8);
    int64_t count = (int32_t)big_endian(head + COUNT_AT, 4);
    int64_t before = -1, last = (int32_t)big_endian(head + LAST_AT, 4); /* places in the batch */
    Reader r = {body, end, false};
    for (int64_t i = 0; i < count; i++) {
        int64_t length = read_varint(&r);
        if (r.bad || length < 0 || length > r.end - r.p)
            return false;
        const byte *stop = r.p + length;
        read_varint(&r); /* attributes of a record: none are defined */
        uint64_t stamp = first + (uint64_t)read_varint(&r);
        int64_t place = read_varint(&r), offset = (int64_t)(base + (uint64_t)place);
        if (r.bad || place <= before || place > last)
            return false;
        before = place;
        Record *record = PyObject_New(Record, RecordType);
        if (!record)
            return false;
        record->offset = offset;
        record->timestamp = (int64_t)(attributes & APPEND_TIME ? latest : stamp); /* the append time is the same for all records */
        record->key = record->value = record->headers = NULL;
        if ((record->key = read_sized(&r)) && (record->value = read_sized(&r)))
            record->headers = read_headers(&r, headers);
        int kept = -1;
        if (record->headers && r.p == stop) /* a batch is sent whole, so it may contain records before `least` */
            kept = offset < least ? 0 : PyList_Append(records, (PyObject *)record);
        Py_DECREF(record);
        if (kept < 0)
            return false;
    }
    return r.p == r.end;
}

static PyObject *unpack_fetch(PyObject *module, PyObject *args) {
    Py_buffer view;
    long long least;
    if (!PyArg_ParseTuple(args, "y*L:unpack_fetch", &view, &least))
        return NULL;
    const byte *head = view.buf, *end = head + view.len;
    int64_t next = least, headers = MOST_HEADERS;
    PyObject *found = NULL, *records = PyList_New(0);
    bool plain = records != NULL;
    while (plain && end - head >= 12) {
        int64_t size = 12 + (int64_t)(int32_t)big_endian(head + LENGTH_AT, 4);
        if (size > end - head)
            break; /* the last batch may be incomplete */
        int attributes = size < BATCH_HEADER ? -1 : (int)big_endian(head + ATTRIBUTES_AT, 2);
        int64_t base = (int64_t)big_endian(head, 8), last = size < BATCH_HEADER ? -1 : (int32_t)big_endian(head + LAST_AT, 4);
        plain = attributes >= 0 && head[MAGIC_AT] == 2 && !(attributes & COMPRESSED) && last >= 0 && base < INT64_MAX - last &&
                (crc_update(0xFFFFFFFFu, head + ATTRIBUTES_AT, size - ATTRIBUTES_AT) ^ 0xFFFFFFFFu) == big_endian(head + CRC_AT, 4) &&
                (attributes & CONTROL || append_batch(records, head, head + BATCH_HEADER, head + size, next, &headers));
        if (plain) {
            int64_t behind = base + last + 1; /* includes records that compaction removed */
            next = behind > next ? behind : next;
            head += size;
        }
    }
    PyBuffer_Release(&view);
    if (plain)
        found = Py_BuildValue("OL", records, (long long)next);
    else if (!PyErr_Occurred())
        found = Py_NewRef(Py_None);
    Py_XDECREF(records);
    return found;
}

static PyObject *unpack_records(PyObject *module, PyObject *args) {
    Py_buffer head, body;
    long long least;
    int64_t headers = MOST_HEADERS;
    if (!PyArg_ParseTuple(args, "y*y*L:unpack_records", &head, &body, &least))
        return NULL;
    PyObject *records = NULL;
    if (head.len != BATCH_HEADER)
        PyErr_SetString(PyExc_ValueError, "a batch's header has 61 bytes");
    else if ((records = PyList_New(0)) && !append_batch(records, head.buf, body.buf, (const byte *)body.buf + body.len, least, &headers)) {
        Py_CLEAR(records);
        if (!PyErr_Occurred())
            records = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&head);
    PyBuffer_Release(&body);
    return records;
}

/* -- encode_records: outputs to records of a batch ------------------------------------------------------------- */

typedef struct {
    PyObject *bytes;
    byte *p, *end;
} Writer;

static bool reserve(Writer *w, Py_ssize_t more) {
    if (w->end - w->p >= more)
        return true;
    Py_ssize_t used = w->p - (byte *)PyBytes_AS_STRING(w->bytes), size = PyBytes_GET_SIZE(w->bytes);
    if (more > PY_SSIZE_T_MAX / 4 || size > PY_SSIZE_T_MAX / 4) {
        PyErr_NoMemory();
        return false;
    }
    size = 2 * size + more;
    if (_PyBytes_Resize(&w->bytes, size) < 0)
        return false;
    w->p = (byte *)PyBytes_AS_STRING(w->bytes) + used;
    w->end = (byte *)PyBytes_AS_STRING(w->bytes) + size;
    return true;
}

static uint64_t zigzag(int64_t number) { return (uint64_t)number << 1 ^ (number < 0 ? UINT64_MAX : 0); }

static int varint_size(int64_t number) {
    int size = 1;
    for (uint64_t raw = zigzag(number); raw > 0x7F; raw >>= 7)
        size++;
    return size;
}

static void put_varint(Writer *w, int64_t number) {
    uint64_t raw = zigzag(number);
    for (; raw > 0x7F; raw >>= 7)
        *w->p++ = (byte)(raw | 0x80);
    *w->p++ = (byte)raw;
}

static void put(Writer *w, const void *from, Py_ssize_t size) {
    memcpy(w->p, from, (size_t)size);
    w->p += size;
}

/* Bytes that an object owns. */
typedef struct {
    const byte *p;
    Py_ssize_t size; /* -1 for None */
} Bytes;

/* False, with TypeError, when the object is neither bytes nor None. */
static bool bytes_of(PyObject *object, Bytes *found) {
    char *text = NULL;
    found->size = -1;
    if (object != Py_None && PyBytes_AsStringAndSize(object, &text, &found->size) < 0)
        return false;
    found->p = (const byte *)text;
    return true;
}

static void put_sized(Writer *w, Bytes value) {
    put_varint(w, value.size);
    if (value.size > 0)
        put(w, value.p, value.size);
}

static Py_ssize_t sized_size(Bytes value) {
    Py_ssize_t size = value.size < 0 ? 0 : value.size;
    return varint_size(size) + size; /* the length -1 takes one byte, as 0 does */
}

enum { DECIMAL = 20 }; /* characters of the longest 64-bit number */

/* Writes the number before `end`; returns the number of characters. */
static int put_decimal(char *end, long long number) {
    char *p = end;
    unsigned long long left = number < 0 ? 0ULL - (unsigned long long)number : (unsigned long long)number;
    do
        *--p = (char)('0' + left % 10);
    while (left /= 10);
    if (number < 0)
        *--p = '-';
    return (int)(end - p);
}

static PyObject *name_offset, *name_timestamp, *name_key;

static bool number_of(PyObject *input, PyObject *name, long long *number) {
    PyObject *value = PyObject_GetAttr(input, name);
    if (!value)
        return false;
    *number = PyLong_Check(value) ? PyLong_AsLongLong(value) : -1;
    if (!PyLong_Check(value))
        PyErr_Format(PyExc_TypeError, "%U is not an int", name);
    Py_DECREF(value);
    return !PyErr_Occurred();
}

/* What the records of one call share. */
typedef struct {
    Bytes head, origin, title, place; /* `place` is what precedes the offset in an id that is a position */
    PyObject *ids;                    /* a tuple of str, or NULL */
    PyObject *heads;                  /* a tuple of bytes, the `head` of each record, or NULL */
    long long first, latest;          /* timestamps, ms; `latest` is of the records so far */
} Shared;

/* Writes one record; `own` is the sink's own key, or NULL for the input's. */
static bool put_record(Writer *w, Shared *shared, PyObject *input, PyObject *own, PyObject *given, Py_ssize_t row, bool begins, int64_t number) {
    long long offset, stamp, delta;
    bool fine = false;
    PyObject *held;
    if (Py_IS_TYPE(input, RecordType)) {
        offset = ((Record *)input)->offset;
        stamp = ((Record *)input)->timestamp;
        held = Py_NewRef(own ? own : ((Record *)input)->key);
    } else {
        if (!number_of(input, name_offset, &offset) || !number_of(input, name_timestamp, &stamp))
            return false;
        held = own ? Py_NewRef(own) : PyObject_GetAttr(input, name_key);
        if (!held)
            return false;
    }
    Bytes key, value, id = {NULL, 0};
    if (!bytes_of(held, &key) || !bytes_of(given, &value))
        goto done;
    if (shared->heads) {
        if (!bytes_of(PyTuple_GET_ITEM(shared->heads, row), &shared->head))
            goto done;
        if (shared->head.size < 0) {
            PyErr_SetString(PyExc_TypeError, "a head is not bytes");
            goto done;
        }
    }
    if (begins)
        shared->first = shared->latest = stamp;
    if (stamp > shared->latest)
        shared->latest = stamp;
    long long first = shared->first;
    if ((first < 0 && stamp > LLONG_MAX + first) || (first > 0 && stamp < LLONG_MIN + first)) {
        PyErr_SetString(PyExc_OverflowError, "the timestamps are too far apart");
        goto done;
    }
    delta = stamp - first;
    char digits[DECIMAL], *end = digits + DECIMAL;
    int shown = put_decimal(end, offset);
    Py_ssize_t size = 1 + varint_size(delta) + varint_size(number) + sized_size(key) + sized_size(value) + shared->head.size;
    Py_ssize_t position = shared->origin.size + shown;
    if (shared->origin.size >= 0)
        size += varint_size(position) + position;
    if (shared->title.size >= 0) {
        if (shared->ids) {
            id.p = (const byte *)PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(shared->ids, row), &id.size); /* a TypeError unless it is a str */
            if (!id.p)
                goto done;
        } else {
            id.size = shared->place.size + shown;
        }
        size += shared->title.size + sized_size(id);
    }
    if (!reserve(w, size + 10))
        goto done;
    put_varint(w, size);
    *w->p++ = 0;
    put_varint(w, delta);
    put_varint(w, number);
    put_sized(w, key);
    put_sized(w, value);
    put(w, shared->head.p, shared->head.size);
    if (shared->origin.size >= 0) {
        put_varint(w, position);
        put(w, shared->origin.p, shared->origin.size);
        put(w, end - shown, shown);
    }
    if (shared->title.size >= 0) {
        put(w, shared->title.p, shared->title.size);
        put_varint(w, id.size);
        if (shared->ids) {
            put(w, id.p, id.size);
        } else {
            put(w, shared->place.p, shared->place.size);
            put(w, end - shown, shown);
        }
    }
    fine = true;
done:
    Py_DECREF(held);
    return fine;
}

static PyObject *encode_records(PyObject *module, PyObject *args) {
    PyObject *inputs, *keys, *values, *head, *origin, *title, *ids, *given, *made = NULL;
    Shared shared = {.ids = NULL, .heads = NULL};
    long long number;
    if (!PyArg_ParseTuple(args, "OOOOOOOOL:encode_records", &inputs, &keys, &values, &head, &origin, &title, &ids, &given, &number))
        return NULL;
    bool listed = title != Py_None && !PyBytes_Check(ids), several = !PyBytes_Check(head);
    if ((!several && !bytes_of(head, &shared.head)) || !bytes_of(origin, &shared.origin) || !bytes_of(title, &shared.title)
        || (title != Py_None && !listed && !bytes_of(ids, &shared.place)))
        return NULL;
    if (given != Py_None && (shared.first = PyLong_AsLongLong(given)) == -1 && PyErr_Occurred())
        return NULL;
    shared.latest = shared.first;
    /* Tuples, so that code run by an input's attribute cannot change the sequences during the loop. */
    Writer w = {NULL, NULL, NULL};
    inputs = PySequence_Tuple(inputs);
    values = PySequence_Tuple(values);
    keys = keys == Py_None ? Py_NewRef(keys) : PySequence_Tuple(keys);
    shared.ids = listed ? PySequence_Tuple(ids) : NULL;
    shared.heads = several ? PySequence_Tuple(head) : NULL;
    if (!inputs || !values || !keys || (listed && !shared.ids) || (several && !shared.heads))
        goto done;
    Py_ssize_t count = PyTuple_GET_SIZE(inputs);
    if (PyTuple_GET_SIZE(values) != count || (keys != Py_None && PyTuple_GET_SIZE(keys) != count)
        || (shared.ids && PyTuple_GET_SIZE(shared.ids) != count) || (shared.heads && PyTuple_GET_SIZE(shared.heads) != count)) {
        PyErr_SetString(PyExc_ValueError, "inputs, keys, values, heads and ids differ in length");
        goto done;
    }
    if (number < 0 || number > INT32_MAX - count) {
        PyErr_SetString(PyExc_OverflowError, "more records than a batch holds");
        goto done;
    }
    w.bytes = PyBytes_FromStringAndSize(NULL, 1024);
    if (!w.bytes)
        goto done;
    byte *begin = w.p = (byte *)PyBytes_AS_STRING(w.bytes);
    w.end = w.p + 1024;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!put_record(&w, &shared, PyTuple_GET_ITEM(inputs, i), keys == Py_None ? NULL : PyTuple_GET_ITEM(keys, i),
                        PyTuple_GET_ITEM(values, i), i, given == Py_None && i == 0, number + i))
            goto done;
        if (i == 0 && w.p - begin < 1024 && !reserve(&w, (count - 1) * (w.p - begin + 16))) /* most records are about as long as the first */
            goto done;
    }
    if (_PyBytes_Resize(&w.bytes, w.p - (byte *)PyBytes_AS_STRING(w.bytes)) == 0)
        made = Py_BuildValue("(OLL)", w.bytes, shared.first, shared.latest);
done:
    Py_XDECREF(w.bytes);
    Py_XDECREF(inputs);
    Py_XDECREF(values);
    Py_XDECREF(keys);
    Py_XDECREF(shared.ids);
    Py_XDECREF(shared.heads);
    return made;
}

/* -- weigh: the bytes of outputs --------------------------------------------------------------------------------- */

static PyObject *weigh(PyObject *module, PyObject *args) {
    PyObject *inputs, *keys, *values;
    long long sum = 0;
    if (!PyArg_ParseTuple(args, "OOO:weigh", &inputs, &keys, &values))
        return NULL;
    inputs = PySequence_Tuple(keys == Py_None ? inputs : keys);
    values = PySequence_Tuple(values);
    Py_ssize_t count = inputs && values ? PyTuple_GET_SIZE(values) : -1;
    bool fine = count >= 0;
    if (fine && PyTuple_GET_SIZE(inputs) != count) {
        PyErr_SetString(PyExc_ValueError, "inputs, keys and values differ in length");
        fine = false;
    }
    for (Py_ssize_t i = 0; fine && i < count; i++) {
        PyObject *input = PyTuple_GET_ITEM(inputs, i), *held = NULL;
        Bytes key, value;
        if (keys != Py_None)
            held = Py_NewRef(input);
        else
            held = Py_IS_TYPE(input, RecordType) ? Py_NewRef(((Record *)input)->key) : PyObject_GetAttr(input, name_key);
        fine = held && bytes_of(held, &key) && bytes_of(PyTuple_GET_ITEM(values, i), &value);
        if (fine)
            sum += (key.size > 0 ? key.size : 0) + (value.size > 0 ? value.size : 0);
        Py_XDECREF(held);
    }
    Py_XDECREF(inputs);
    Py_XDECREF(values);
    return fine ? PyLong_FromLongLong(sum) : NULL;
}

/* -- JsonColumns: plain events to columns -------------------------------------------------------------------------- */

enum { CACHED = 512, SHORT = 8 }; /* texts of at most SHORT bytes often repeat: carriers, airports, codes */

typedef struct {
    int block;
    Py_ssize_t row; /* in the block: one column */
    char code;      /* a code of the struct module, 'O' for str */
    PyObject *fill; /* bytes of one number, or a str; None where null is rejected */
    byte *base;     /* of the column, while decoding */
} Target;

typedef struct {
    PyObject *name, *symbols; /* str; a tuple of str, for an enum */
    const char *text;
    Py_ssize_t size;
    char kind; /* b boolean, i whole, f floating, s string, e enum */
    bool nullable;
    long long low, high;
    double top;
    Py_ssize_t count, next; /* targets; the field that followed this one in the previous event */
    Target *targets;
    uint64_t seen; /* the last row that had it */
} Field;

typedef struct {
    PyObject_HEAD
    Py_ssize_t count, first, max_bytes;
    Field *fields;
    uint64_t row;
    bool busy;
    PyObject *cache[CACHED];
} JsonColumns;

static const double TENS[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
static byte plain[256]; /* bytes that need no escape in a string */

static Py_ssize_t width(char code) {
    switch (code) {
    case '?': case 'b': case 'B': return 1;
    case 'h': case 'H': return 2;
    case 'i': case 'I': case 'f': return 4;
    case 'q': case 'Q': case 'd': return 8;
    case 'O': return sizeof(PyObject *);
    default: return 0;
    }
}

static const byte *skip_space(const byte *p) {
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')
        p++;
    return p;
}

static const byte *skip_word(const byte *p, const byte *end, const char *word, Py_ssize_t size) {
    return end - p >= size && !memcmp(p, word, (size_t)size) ? p + size : NULL;
}

/* Returns the position after the closing quote of a plain string; NULL for any other. */
static const byte *skip_string(const byte *p) {
    if (*p++ != '"')
        return NULL;
    while (plain[*p])
        p++;
    return *p == '"' ? p + 1 : NULL;
}

typedef struct {
    bool whole;
    long long integer;
    double real;
} Number;

/* Reads a number with an unambiguous value: an integer of at most 18 digits, or a decimal from one exact operation (Clinger)
   or from Python's correctly rounded conversion. Returns NULL for any other, and for "-0", which parsers read differently. */
static const byte *read_number(const byte *p, Number *out) {
    const byte *start = p, *digits;
    bool minus = *p == '-', wide = false;
    uint64_t mantissa = 0;
    int power = 0, exponent = 0, count;
    p += minus;
    digits = p;
    for (; *p >= '0' && *p <= '9'; p++)
        mantissa = mantissa * 10 + (*p - '0');
    if (p == digits || p - digits > 18 || (*digits == '0' && p - digits > 1))
        return NULL;
    count = (int)(p - digits);
    out->whole = *p != '.' && *p != 'e' && *p != 'E';
    if (out->whole) {
        if (minus && mantissa == 0)
            return NULL;
        out->integer = minus ? -(long long)mantissa : (long long)mantissa;
        out->real = (double)out->integer;
        return p;
    }
    if (*p == '.') {
        const byte *point = p++;
        for (; *p >= '0' && *p <= '9'; p++) {
            if (count < 18)
                mantissa = mantissa * 10 + (*p - '0');
            else
                wide = true;
            count++;
            if (p - point > 40)
                return NULL;
        }
        power = -(int)(p - point - 1);
        if (power == 0)
            return NULL;
    }
    if (*p == 'e' || *p == 'E') {
        bool negative = *++p == '-';
        p += *p == '-' || *p == '+';
        digits = p;
        for (; *p >= '0' && *p <= '9' && p - digits < 4; p++)
            exponent = exponent * 10 + (*p - '0');
        if (p == digits || p - digits > 3)
            return NULL;
        power += negative ? -exponent : exponent;
    }
    if (!wide && mantissa <= 1ull << 53 && power >= -22 && power <= 22) {
        double exact = (double)mantissa;
        exact = power < 0 ? exact / TENS[-power] : exact * TENS[power];
        out->real = minus ? -exact : exact;
        return p;
    }
    char *behind;
    out->real = PyOS_string_to_double((const char *)start, &behind, NULL);
    if (behind != (const char *)p) {
        PyErr_Clear();
        return NULL;
    }
    return fabs(out->real) > 1e-300 && fabs(out->real) < 1e300 ? p : NULL;
}

static void store_integer(const Target *t, Py_ssize_t at, long long number) {
    switch (t->code) {
    case '?': case 'b': case 'B': t->base[at] = (byte)number; break;
    case 'h': case 'H': ((uint16_t *)t->base)[at] = (uint16_t)number; break;
    case 'i': case 'I': ((uint32_t *)t->base)[at] = (uint32_t)number; break;
    case 'q': case 'Q': ((uint64_t *)t->base)[at] = (uint64_t)number; break;
    case 'f': ((float *)t->base)[at] = (float)(double)number; break;
    case 'd': ((double *)t->base)[at] = (double)number; break;
    }
}

static void store_object(const Target *t, Py_ssize_t at, PyObject *value) {
    PyObject **slot = (PyObject **)t->base + at, *old = *slot;
    *slot = Py_NewRef(value);
    Py_XDECREF(old);
}

static void store_null(const Target *t, Py_ssize_t at) {
    if (t->code == 'O')
        store_object(t, at, t->fill);
    else
        memcpy(t->base + at * width(t->code), PyBytes_AS_STRING(t->fill), (size_t)width(t->code));
}

/* Returns a new reference to the text as str; a short one may be cached. */
static PyObject *text_of(JsonColumns *self, const byte *p, Py_ssize_t size) {
    if (size == 0 || size > SHORT)
        return PyUnicode_DecodeASCII((const char *)p, size, NULL);
    uint64_t word = 0;
    for (Py_ssize_t i = 0; i < size; i++)
        word = word << 8 | p[i];
    PyObject **slot = &self->cache[(word * 0x9E3779B97F4A7C15ull) >> 55];
    if (!*slot || PyUnicode_GET_LENGTH(*slot) != size || memcmp(PyUnicode_1BYTE_DATA(*slot), p, (size_t)size)) {
        PyObject *made = PyUnicode_DecodeASCII((const char *)p, size, NULL);
        if (!made)
            return NULL;
        Py_XSETREF(*slot, made);
    }
    return Py_NewRef(*slot);
}

/* Returns the symbol equal to the text, borrowed, or NULL. */
static PyObject *symbol_of(const Field *f, const byte *p, Py_ssize_t size) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(f->symbols); i++) {
        PyObject *symbol = PyTuple_GET_ITEM(f->symbols, i);
        if (PyUnicode_GET_LENGTH(symbol) == size && !memcmp(PyUnicode_1BYTE_DATA(symbol), p, (size_t)size))
            return symbol;
    }
    return NULL;
}

/* Stores the value and returns the position after it; NULL when it is not plain, or with MemoryError set. */
static const byte *read_value(JsonColumns *self, const Field *f, const byte *p, const byte *end, Py_ssize_t at) {
    const byte *start = p;
    Number number;
    if (*p == 'n') {
        if (!f->nullable || !(p = skip_word(p, end, "null", 4)))
            return NULL;
        for (Py_ssize_t i = 0; i < f->count; i++)
            store_null(&f->targets[i], at);
        return p;
    }
    switch (f->kind) {
    case 'b':
        p = *p == 't' ? skip_word(p, end, "true", 4) : skip_word(p, end, "false", 5);
        for (Py_ssize_t i = 0; p && i < f->count; i++)
            store_integer(&f->targets[i], at, *start == 't');
        return p;
    case 'i':
        p = read_number(p, &number);
        if (!p || !number.whole || number.integer < f->low || number.integer > f->high)
            return NULL;
        for (Py_ssize_t i = 0; i < f->count; i++)
            store_integer(&f->targets[i], at, number.integer);
        return p;
    case 'f':
        p = read_number(p, &number);
        if (!p || fabs(number.real) > f->top || (number.whole && fabs(number.real) > 9007199254740992.0))
            return NULL;
        for (Py_ssize_t i = 0; i < f->count; i++) {
            const Target *t = &f->targets[i];
            if (t->code == 'f')
                ((float *)t->base)[at] = (float)number.real;
            else
                ((double *)t->base)[at] = number.real;
        }
        return p;
    default:
        if (!(p = skip_string(p)))
            return NULL;
        Py_ssize_t size = p - start - 2;
        PyObject *text = NULL;
        if (f->kind == 'e') {
            if (!(text = symbol_of(f, start + 1, size)))
                return NULL;
            Py_INCREF(text);
        } else if (f->count && !(text = text_of(self, start + 1, size)))
            return NULL;
        for (Py_ssize_t i = 0; i < f->count; i++)
            store_object(&f->targets[i], at, text);
        Py_XDECREF(text);
        return p;
    }
}

/* Returns the position after a value of an unknown field; nested values are not plain. */
static const byte *skip_value(const byte *p, const byte *end) {
    Number number;
    switch (*p) {
    case '"': return skip_string(p);
    case 't': return skip_word(p, end, "true", 4);
    case 'f': return skip_word(p, end, "false", 5);
    case 'n': return skip_word(p, end, "null", 4);
    default: return read_number(p, &number);
    }
}

/* Returns the field of a name (without quotes), or NULL; `guess` is tried first, and is updated. */
static Field *find(JsonColumns *self, Py_ssize_t *guess, const byte *p, Py_ssize_t size) {
    for (Py_ssize_t i = 0; i < self->count; i++)
        if (self->fields[i].size == size && !memcmp(self->fields[i].text, p, (size_t)size)) {
            *guess = i;
            return &self->fields[i];
        }
    return NULL;
}

/* Returns whether the value is a plain event, and if so writes row `at` of every column. */
static bool read_row(JsonColumns *self, const byte *p, const byte *end, Py_ssize_t at) {
    Py_ssize_t found = 0, *guess = &self->first;
    self->row++;
    p = skip_space(p);
    if (*p++ != '{')
        return false;
    p = skip_space(p);
    if (*p == '}')
        p++;
    else
        for (;;) {
            Field *f = &self->fields[*guess];
            const byte *name = p + 1;
            if (*p == '"' && end - name > f->size && !memcmp(name, f->text, (size_t)f->size) && name[f->size] == '"')
                p = name + f->size + 1;
            else {
                if (!(p = skip_string(p)))
                    return false;
                f = find(self, guess, name, p - name - 1);
            }
            p = skip_space(p);
            if (*p++ != ':')
                return false;
            p = skip_space(p);
            if (f) {
                if (f->seen == self->row) /* a duplicate name */
                    return false;
                f->seen = self->row;
                found++;
                guess = &f->next;
            }
            if (!(p = f ? read_value(self, f, p, end, at) : skip_value(p, end)))
                return false;
            p = skip_space(p);
            if (*p == '}') {
                p++;
                break;
            }
            if (*p++ != ',')
                return false;
            p = skip_space(p);
        }
    return found == self->count && skip_space(p) == end;
}

/* Sets every target's base in the blocks; raises when a block does not have the shape and type of the plan. */
static bool place(JsonColumns *self, const Py_buffer *views, Py_ssize_t blocks, Py_ssize_t rows) {
    for (Py_ssize_t i = 0; i < self->count; i++)
        for (Py_ssize_t k = 0; k < self->fields[i].count; k++) {
            Target *t = &self->fields[i].targets[k];
            Py_ssize_t wide = width(t->code);
            const Py_buffer *v = t->block < blocks ? &views[t->block] : NULL;
            bool typed = v && v->itemsize == wide && v->format && !v->format[1] && (t->code == 'O') == (v->format[0] == 'O');
            if (!typed || (uintptr_t)v->buf % (uintptr_t)wide || (rows && v->len / wide / rows <= t->row)) {
                PyErr_Format(PyExc_ValueError, "the block of field %R has another type or size than its columns", self->fields[i].name);
                return false;
            }
            t->base = (byte *)v->buf + t->row * rows * wide;
        }
    return true;
}

static PyObject *json_decode(JsonColumns *self, PyObject *args) {
    PyObject *values, *arrays, *left = NULL;
    Py_buffer views[16];
    Py_ssize_t taken = 0;
    if (!PyArg_ParseTuple(args, "OO!:decode", &values, &PyTuple_Type, &arrays))
        return NULL;
    if (self->busy || PyTuple_GET_SIZE(arrays) > 16) {
        PyErr_SetString(PyExc_RuntimeError, self->busy ? "a decode is already running" : "more than 16 blocks");
        return NULL;
    }
    if (!(values = PySequence_Tuple(values)))
        return NULL;
    self->busy = true;
    Py_ssize_t rows = PyTuple_GET_SIZE(values);
    for (; taken < PyTuple_GET_SIZE(arrays); taken++)
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(arrays, taken), &views[taken], PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE | PyBUF_FORMAT) < 0)
            goto done;
    if (!place(self, views, taken, rows) || !(left = PyList_New(0)))
        goto done;
    for (Py_ssize_t at = 0; at < rows; at++) {
        PyObject *value = PyTuple_GET_ITEM(values, at);
        if (PyBytes_Check(value) && PyBytes_GET_SIZE(value) <= self->max_bytes) {
            const byte *text = (const byte *)PyBytes_AS_STRING(value);
            if (read_row(self, text, text + PyBytes_GET_SIZE(value), at))
                continue;
        }
        PyObject *number = PyErr_Occurred() ? NULL : PyLong_FromSsize_t(at);
        if (!number || PyList_Append(left, number) < 0)
            Py_CLEAR(left);
        Py_XDECREF(number);
        if (!left)
            break;
    }
done:
    while (taken--)
        PyBuffer_Release(&views[taken]);
    self->busy = false;
    Py_DECREF(values);
    return left;
}

static void json_free(JsonColumns *self) {
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Field *f = &self->fields[i];
        for (Py_ssize_t k = 0; k < f->count; k++)
            Py_XDECREF(f->targets[k].fill);
        PyMem_Free(f->targets);
        Py_XDECREF(f->name);
        Py_XDECREF(f->symbols);
    }
    PyMem_Free(self->fields);
    for (int i = 0; i < CACHED; i++)
        Py_XDECREF(self->cache[i]);
    free_object((PyObject *)self);
}

static bool plain_text(PyObject *text) {
    if (!PyUnicode_Check(text) || !PyUnicode_IS_ASCII(text))
        return false;
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(text); i++)
        if (!plain[PyUnicode_1BYTE_DATA(text)[i]])
            return false;
    return true;
}

static bool read_target(Target *t, const Field *f, PyObject *given) {
    int code;
    if (!PyArg_ParseTuple(given, "inCO:target", &t->block, &t->row, &code, &t->fill))
        return false;
    t->code = (char)code;
    Py_INCREF(t->fill);
    bool text = f->kind == 's' || f->kind == 'e';
    bool fed = f->kind == 'f' ? (code == 'f' && f->top <= FLT_MAX) || code == 'd' : text ? code == 'O' : code != 'O' && code != '?';
    bool filled = code == 'O' ? PyUnicode_Check(t->fill) : PyBytes_Check(t->fill) && PyBytes_GET_SIZE(t->fill) == width(t->code);
    if (t->block < 0 || t->row < 0 || code > 127 || !width(t->code) || !(fed || (f->kind == 'b' && code == '?'))
        || (!filled && (f->nullable || t->fill != Py_None))) {
        PyErr_Format(PyExc_ValueError, "a column that field %R cannot feed", f->name);
        return false;
    }
    return true;
}

static bool read_field(Field *f, PyObject *given) {
    PyObject *targets;
    int kind, nullable;
    if (!PyArg_ParseTuple(given, "UCpLLdO!O!:field", &f->name, &kind, &nullable, &f->low, &f->high, &f->top, &PyTuple_Type, &f->symbols,
                          &PyTuple_Type, &targets)) {
        f->name = f->symbols = NULL; /* borrowed */
        return false;
    }
    Py_INCREF(f->name);
    Py_INCREF(f->symbols);
    f->kind = (char)kind;
    f->nullable = nullable;
    bool fine = kind < 128 && kind && strchr("bifse", kind) && plain_text(f->name);
    for (Py_ssize_t i = 0; fine && i < PyTuple_GET_SIZE(f->symbols); i++)
        fine = plain_text(PyTuple_GET_ITEM(f->symbols, i));
    if (!fine) {
        PyErr_Format(PyExc_ValueError, "field %R is not plain", f->name);
        return false;
    }
    f->text = (const char *)PyUnicode_1BYTE_DATA(f->name);
    f->size = PyUnicode_GET_LENGTH(f->name);
    if (!(f->targets = PyMem_Calloc((size_t)PyTuple_GET_SIZE(targets) + 1, sizeof(Target)))) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(targets); i++) {
        f->count = i + 1;
        if (!read_target(&f->targets[i], f, PyTuple_GET_ITEM(targets, i)))
            return false;
    }
    return true;
}

static PyObject *json_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    PyObject *fields;
    Py_ssize_t max_bytes;
    if (named && PyDict_GET_SIZE(named)) {
        PyErr_SetString(PyExc_TypeError, "JsonColumns takes no named arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!n:JsonColumns", &PyTuple_Type, &fields, &max_bytes))
        return NULL;
    if (!PyTuple_GET_SIZE(fields)) {
        PyErr_SetString(PyExc_ValueError, "no fields");
        return NULL;
    }
    JsonColumns *self = (JsonColumns *)PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    self->max_bytes = max_bytes;
    if (!(self->fields = PyMem_Calloc((size_t)PyTuple_GET_SIZE(fields), sizeof(Field)))) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(fields); i++) {
        self->count = i + 1;
        self->fields[i].next = (i + 1) % PyTuple_GET_SIZE(fields);
        if (!read_field(&self->fields[i], PyTuple_GET_ITEM(fields, i))) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

static PyMethodDef json_methods[] = {
    {"decode", (PyCFunction)json_decode, METH_VARARGS, "Writes plain rows into the blocks; returns the numbers of the other rows."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot json_slots[] = {
    {Py_tp_doc, "Decodes plain JSON events of one schema directly into columns."},
    {Py_tp_new, json_new},
    {Py_tp_dealloc, json_free},
    {Py_tp_methods, json_methods},
    {0, NULL},
};

static PyType_Spec json_spec = {
    .name = "penstock._native.JsonColumns",
    .basicsize = sizeof(JsonColumns),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = json_slots,
};

/* -- shortest: the digits of float32 ------------------------------------------------------------------------------- */

enum { LEAST_DIGITS = 6, MOST_DIGITS = 9 }; /* as in codecs/digits.py */

/* Rounds to a whole number, without the mathematical library: in a double of this size, a unit of the last place is 1. */
static double rounded(double number) {
    return (number + 6755399441055744.0) - 6755399441055744.0;
}

/* Returns the double next to the decimal of the fewest digits that is this float32. */
static double shorten(float value) {
    double wide = value, size = wide < 0 ? -wide : wide, near;
    if (!(size > 0 && size <= FLT_MAX))
        return wide;
    if (size < 1e-13 || size >= 1e21) {
        for (int digits = size < FLT_MIN ? 1 : LEAST_DIGITS; digits <= MOST_DIGITS; digits++) {
            char *text = PyOS_double_to_string(wide, 'e', digits - 1, 0, NULL);
            near = text ? PyOS_string_to_double(text, NULL, NULL) : wide;
            PyMem_Free(text);
            if (!text || ((float)near == value && near <= FLT_MAX && near >= -FLT_MAX)) /* a reader of float32 takes no more than FLT_MAX */
                return near;
        }
        return wide;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    int power = ((int)(bits >> 23 & 255) - 127) * 1233 / 4096 + 1; /* at most one too many, or two below 1 */
    while (power > 0 ? size < TENS[power] : size * TENS[-power] < 1)
        power--;
    int places = LEAST_DIGITS - 1 - power;
    if (places >= 0) { /* all four without a branch: which of them it is cannot be predicted */
        double six = rounded(wide * TENS[places]) / TENS[places], seven = rounded(wide * TENS[places + 1]) / TENS[places + 1];
        double eight = rounded(wide * TENS[places + 2]) / TENS[places + 2], nine = rounded(wide * TENS[places + 3]) / TENS[places + 3];
        near = (float)nine == value ? nine : wide;
        near = (float)eight == value ? eight : near;
        near = (float)seven == value ? seven : near;
        return (float)six == value ? six : near;
    }
    for (; places < MOST_DIGITS - power; places++) {
        near = places < 0 ? rounded(wide / TENS[-places]) * TENS[-places] : rounded(wide * TENS[places]) / TENS[places];
        if ((float)near == value)
            return near;
    }
    return wide;
}

static PyObject *shortest(PyObject *module, PyObject *args) {
    PyObject *values, *target;
    Py_buffer from, to;
    if (!PyArg_ParseTuple(args, "OO:shortest", &values, &target) || PyObject_GetBuffer(values, &from, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0)
        return NULL;
    if (PyObject_GetBuffer(target, &to, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE | PyBUF_FORMAT) < 0) {
        PyBuffer_Release(&from);
        return NULL;
    }
    bool fine = from.format && to.format && !strcmp(from.format, "f") && !strcmp(to.format, "d") && from.len / 4 == to.len / 8
                && !((uintptr_t)from.buf % sizeof(float)) && !((uintptr_t)to.buf % sizeof(double));
    if (fine)
        for (Py_ssize_t i = 0; i < to.len / 8; i++)
            ((double *)to.buf)[i] = shorten(((const float *)from.buf)[i]);
    else
        PyErr_SetString(PyExc_ValueError, "float32 and float64 arrays of one size");
    PyBuffer_Release(&from);
    PyBuffer_Release(&to);
    return !fine || PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* -- fold_windows: rows through the rings of keyed windows ---------------------------------------------------------
 * The same as penstock/windows/rounds.py, operation by operation, so that the results have the same bits (setup.py turns the contraction
 * of a product and a sum off). Arrays are native, aligned and contiguous; their sizes are checked here, and what they hold is Python's. */

enum { COUNTED = 1, LATE = 2, FUTURE = 4, REPLAYED = 8, DISORDERED = 16 };                      /* penstock.windows.rows.Mark */
enum { SUM = 1, SQUARES = 2, LEAST = 4, GREATEST = 8, FIRST = 16, MOST_NEWEST = 64 }; /* penstock.windows.partials.BITS */

typedef struct {
    int32_t at, value, parts, newest;
} Track;

typedef struct {
    int64_t length, hops, places;
} LookBack;

enum { TRACKS, HOPS, RING, TOP, POOL, FREE, COUNTS, BODY, BODY_AT, NEWEST, KEPT_TO, SLOTS, TIMES, OFFSETS, LATEST, MARKS, VALUES, TAKES, INTO, ARRAYS };
static const char array_codes[ARRAYS + 1] = "ilildildlllllllBd?d";

#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif
enum { FAR = 12, NEAR = 4 }; /* rows ahead; measured by benchmarks/windows.py */

/* Merges values that are not earlier, `b`, into `a`. */
static void merge_partials(const Track *track, Py_ssize_t tracks, double *a, const double *b) {
    for (; tracks--; track++) {
        double *into = a + track->at, n = *into;
        const double *from = b + track->at, m = *from;
        if (m == 0)
            continue;
        *into++ = n + m;
        from++;
        if (track->parts & SUM) {
            if (track->parts & SQUARES) {
                double apart = n > 0 ? from[0] / m - into[0] / n : 0;
                into[1] = n > 0 ? (into[1] + from[1]) + apart * apart * (n * m / (n + m)) : from[1];
            }
            into[0] += from[0];
            into += track->parts & SQUARES ? 2 : 1;
            from += track->parts & SQUARES ? 2 : 1;
        }
        if (track->parts & LEAST) {
            *into = *from < *into ? *from : *into;
            into++, from++;
        }
        if (track->parts & GREATEST) {
            *into = *from > *into ? *from : *into;
            into++, from++;
        }
        if (track->parts & FIRST) {
            if (*from < *into)
                memcpy(into, from, 2 * sizeof(double));
            into += 2, from += 2;
        }
        if (track->newest == 1) {
            if (*from >= *into)
                memcpy(into, from, 2 * sizeof(double));
        } else if (track->newest) {
            double old[2 * MOST_NEWEST];
            const double *left = old;
            memcpy(old, into, (size_t)track->newest * 2 * sizeof(double));
            for (int32_t k = 0; k < track->newest; k++, into += 2) {
                const double **next = *from >= *left ? &from : &left;
                memcpy(into, *next, 2 * sizeof(double));
                *next += 2;
            }
        }
    }
}

/* Makes the partial of one row; returns whether any track takes it. */
static bool single_partial(const Track *track, Py_ssize_t tracks, double *into, double time, const double *values, const byte *takes,
                           Py_ssize_t rows) {
    bool any = false;
    for (; tracks--; track++, takes += rows) {
        if (!*takes)
            continue;
        any = true;
        double *cell = into + track->at, value = track->value < 0 ? 0 : values[track->value * rows];
        *cell++ = 1;
        if (track->parts & SUM)
            *cell++ = value;
        if (track->parts & SQUARES)
            *cell++ = 0;
        if (track->parts & LEAST)
            *cell++ = value;
        if (track->parts & GREATEST)
            *cell++ = value;
        if (track->parts & FIRST)
            *cell++ = time, *cell++ = value;
        if (track->newest)
            *cell++ = time, *cell++ = value;
    }
    return any;
}

/* The partial of the hops that a row in order sees before its own is the same for all rows of that hop: `body`, of the hop `at`. A ring in
 * which an earlier hop changes has none. It saves most of the reading: rings are anywhere in memory. */

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Moves a ring on to the hop, and frees the tiles whose places are then of other hops. */
static void advance_ring(int32_t *ring, const LookBack *back, int64_t *top, int64_t hop, int32_t *free_tiles, int64_t *count) {
    int64_t steps = smaller(hop - *top, back->places), place = hop - floor_div(hop, back->places) * back->places;
    for (; steps > 0; steps--) {
        if (ring[place]) {
            free_tiles[(*count)++] = ring[place];
            ring[place] = 0;
        }
        place = (place ? place : back->places) - 1;
    }
    *top = hop;
}

/* Keys are anywhere in memory: what a row far ahead needs, and then its tiles, are on their way while others are computed. */
static void prefetch_row(const Py_buffer *view, const LookBack *hops, Py_ssize_t backs, Py_ssize_t places, Py_ssize_t width, Py_ssize_t far,
                         Py_ssize_t near, Py_ssize_t rows) {
    const int64_t *slots = view[SLOTS].buf, *body_at = view[BODY_AT].buf, *top = view[TOP].buf;
    const int32_t *ring = view[RING].buf;
    const double *pool = view[POOL].buf, *body = view[BODY].buf;
    if (far < rows && slots[far] >= 0) {
        for (Py_ssize_t k = 0; k < places; k += 16)
            PREFETCH(ring + slots[far] * places + k);
        for (Py_ssize_t k = 0; k < backs * width; k += 8)
            PREFETCH(body + slots[far] * backs * width + k);
        PREFETCH(top + slots[far] * backs);
        PREFETCH(body_at + slots[far] * backs);
        PREFETCH((int64_t *)view[NEWEST].buf + slots[far]);
        PREFETCH((int64_t *)view[KEPT_TO].buf + slots[far]);
    }
    if (near >= rows || slots[near] < 0)
        return;
    ring += slots[near] * places;
    for (Py_ssize_t k = 0; k < backs; ring += hops[k].places, k++) {
        int64_t hop = floor_div(((int64_t *)view[TIMES].buf)[near], hops[k].length);
        if (body_at[slots[near] * backs + k] == hop)
            PREFETCH(pool + ring[hop - floor_div(hop, hops[k].places) * hops[k].places] * width);
        else
            for (Py_ssize_t place = 0; place < hops[k].places; place++)
                PREFETCH(pool + ring[place] * width);
    }
}

static void fold_rows(Py_buffer *view, Py_ssize_t tracks, Py_ssize_t backs, Py_ssize_t places, Py_ssize_t width, Py_ssize_t rows, bool itself,
                      double *own) {
    const Track *track = view[TRACKS].buf;
    const LookBack *hops = view[HOPS].buf;
    int32_t *free_tiles = view[FREE].buf;
    double *pool = view[POOL].buf, *into = view[INTO].buf;
    int64_t *counts = view[COUNTS].buf, *newest = view[NEWEST].buf, *kept_to = view[KEPT_TO].buf;
    const int64_t *slots = view[SLOTS].buf, *times = view[TIMES].buf, *offsets = view[OFFSETS].buf, *latest = view[LATEST].buf;
    byte *marks = view[MARKS].buf;
    size_t size = (size_t)width * sizeof(double);
    for (Py_ssize_t row = 0; row < rows; row++, into += backs * width) {
        double *start = into;
        prefetch_row(view, hops, backs, places, width, row + FAR, row + NEAR, rows);
        for (Py_ssize_t k = 0; k < backs; k++)
            memcpy(into + k * width, pool, size);
        if (marks[row] & FUTURE)
            continue;
        memcpy(own, pool, size);
        int64_t slot = slots[row], time = times[row];
        bool some = single_partial(track, tracks, own, (double)time, (const double *)view[VALUES].buf + row, (const byte *)view[TAKES].buf + row, rows);
        if (slot >= 0) {
            int32_t *ring = (int32_t *)view[RING].buf + slot * places;
            int64_t *top = (int64_t *)view[TOP].buf + slot * backs;
            bool whole = time < newest[slot] || marks[row] & REPLAYED;
            if (time < newest[slot] && !(marks[row] & LATE))
                marks[row] |= DISORDERED;
            int64_t *body_at = (int64_t *)view[BODY_AT].buf + slot * backs;
            double *body = (double *)view[BODY].buf + slot * backs * width;
            for (Py_ssize_t k = 0; k < backs; ring += hops[k].places, k++, into += width, body += width) {
                const LookBack *back = &hops[k];
                int64_t hop = floor_div(time, back->length), horizon = floor_div(latest[row], back->length) - back->places + 1;
                int64_t low = larger(larger(hop - back->hops, horizon), top[k] - back->places + 1), high = smaller(hop - whole, top[k]);
                int64_t place = low - floor_div(low, back->places) * back->places;
                bool usual = !whole && !(marks[row] & LATE); /* then low is hop - hops, and top is no later than hop */
                if (usual && body_at[k] == hop) {
                    memcpy(into, body, size);
                    low = hop;
                    place = hop - floor_div(hop, back->places) * back->places;
                }
                for (; low <= high; low++) {
                    if (usual && low == hop)
                        memcpy(body, into, size), body_at[k] = hop;
                    if (ring[place])
                        merge_partials(track, tracks, into, pool + ring[place] * width);
                    place = place + 1 == back->places ? 0 : place + 1;
                }
                if (usual && body_at[k] != hop)
                    memcpy(body, into, size), body_at[k] = hop;
                if (hop < body_at[k] && marks[row] & COUNTED)
                    body_at[k] = INT64_MIN;
                if (!(marks[row] & COUNTED) || hop < horizon)
                    continue;
                if (hop > top[k])
                    advance_ring(ring, back, &top[k], hop, free_tiles, &counts[0]);
                if (!some)
                    continue;
                place = hop - floor_div(hop, back->places) * back->places;
                if (!ring[place]) {
                    ring[place] = counts[0] ? free_tiles[--counts[0]] : (int32_t)counts[1]++;
                    memcpy(pool + ring[place] * width, pool, size);
                }
                merge_partials(track, tracks, pool + ring[place] * width, own);
            }
            if (marks[row] & COUNTED) {
                newest[slot] = larger(newest[slot], time);
                kept_to[slot] = offsets[row];
            }
        }
        into = start;
        if (itself && some)
            for (Py_ssize_t k = 0; k < backs; k++)
                merge_partials(track, tracks, into + k * width, own);
    }
}

/* Checks the sizes of the arrays, and what is used as an index into them, except for rings and tiles, which only these functions write. */
static bool fold_fits(const Py_buffer *view, Py_ssize_t *sizes, Py_ssize_t *places, Py_ssize_t width) {
    Py_ssize_t tracks = sizes[TRACKS] / 4, backs = sizes[HOPS] / 3, rows = sizes[SLOTS], columns = 0;
    *places = 0;
    for (Py_ssize_t k = 0; k < backs; k++) {
        const LookBack *back = (const LookBack *)view[HOPS].buf + k;
        if (back->length < 1 || back->hops < 1 || back->places <= back->hops || back->places > INT32_MAX)
            return false;
        *places += back->places;
    }
    for (Py_ssize_t k = 0; k < tracks; k++) {
        const Track *track = (const Track *)view[TRACKS].buf + k;
        int wide = 1 + !!(track->parts & SUM) + !!(track->parts & SQUARES) + !!(track->parts & LEAST) + !!(track->parts & GREATEST);
        wide += (track->parts & FIRST ? 2 : 0) + 2 * track->newest;
        if (track->at < 0 || track->newest < 0 || track->newest > MOST_NEWEST || track->at + wide > width
            || (track->parts & SQUARES && !(track->parts & SUM)))
            return false;
        columns = track->value >= columns ? track->value + 1 : columns;
    }
    const int64_t *counts = view[COUNTS].buf, *slot = view[SLOTS].buf;
    if (!tracks || !backs || width < 1 || sizes[COUNTS] != 2 || counts[0] < 0 || counts[1] < 1 || sizes[FREE] < smaller(counts[0] + rows * *places, sizes[POOL] / width)
        || sizes[POOL] / width > INT32_MAX || sizes[POOL] / width < counts[1] + larger(rows * backs - counts[0], 0) || sizes[TIMES] != rows
        || sizes[OFFSETS] != rows || sizes[LATEST] != rows || sizes[MARKS] != rows || sizes[VALUES] < columns * rows
        || sizes[TAKES] != tracks * rows || sizes[INTO] != rows * backs * width)
        return false;
    int64_t slots = smaller(smaller(sizes[RING] / *places, sizes[TOP] / backs), smaller(sizes[BODY_AT] / backs, sizes[BODY] / backs / width));
    slots = smaller(slots, smaller(sizes[NEWEST], sizes[KEPT_TO])); /* arrays have more room than there are keys, each its own */
    for (Py_ssize_t row = 0; row < rows; row++)
        if (slot[row] >= slots)
            return false;
    return true;
}

/* Gets the buffers of a tuple of arrays of these types, and their sizes in items. Returns how many it got: less than all of them with an
 * exception set. */
static Py_ssize_t get_arrays(PyObject *arrays, const char *codes, bool write, Py_buffer *view, Py_ssize_t *sizes) {
    Py_ssize_t taken = 0, all = (Py_ssize_t)strlen(codes);
    for (bool fits = PyTuple_GET_SIZE(arrays) == all; taken < all; taken++) {
        Py_buffer *v = &view[taken];
        int writable = write && taken > HOPS ? PyBUF_WRITABLE : 0;
        if (fits && PyObject_GetBuffer(PyTuple_GET_ITEM(arrays, taken), v, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | writable) < 0)
            return taken;
        char code = fits && v->format ? (*v->format == 'q' ? 'l' : *v->format) : 0; /* int64 is q where long has 32 bits */
        if (!fits || code != codes[taken] || v->format[1] || (uintptr_t)v->buf % (uintptr_t)v->itemsize || (code == 'l' && v->itemsize != 8)) {
            PyErr_SetString(PyExc_ValueError, "the arrays of windows have other types");
            if (fits)
                PyBuffer_Release(v);
            return taken;
        }
        sizes[taken] = v->len / v->itemsize;
    }
    return taken;
}

static PyObject *fold_windows(PyObject *module, PyObject *args) {
    PyObject *arrays;
    int itself;
    Py_buffer view[ARRAYS];
    Py_ssize_t sizes[ARRAYS], taken = 0, places;
    if (!PyArg_ParseTuple(args, "O!p:fold_windows", &PyTuple_Type, &arrays, &itself))
        return NULL;
    if ((taken = get_arrays(arrays, array_codes, true, view, sizes)) < ARRAYS)
        goto done;
    Py_ssize_t width = view[INTO].ndim == 3 ? view[INTO].shape[2] : 0;
    if (!fold_fits(view, sizes, &places, width)) {
        PyErr_SetString(PyExc_ValueError, "the arrays of windows have other sizes");
        goto done;
    }
    double *own = PyMem_Malloc((size_t)width * sizeof(double));
    if (own)
        fold_rows(view, sizes[TRACKS] / 4, sizes[HOPS] / 3, places, width, sizes[SLOTS], itself, own);
    else
        PyErr_NoMemory();
    PyMem_Free(own);
done:
    while (taken--)
        PyBuffer_Release(&view[taken]);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* -- pack_windows: the bytes of keys, the same as penstock/windows/rings.py makes ---------------------------------- */

enum { P_HOPS, P_RING, P_TOP, P_POOL, P_SLOTS, P_HEADS, P_ARRAYS };

static const int64_t NEVER = -((int64_t)1 << 62); /* penstock.state.base.NEVER */

/* Returns the bytes of one key: heads, tops, bits of the places whose tile is not stale, and the tiles. */
static PyObject *pack_key(const LookBack *hops, Py_ssize_t backs, Py_ssize_t places, const int32_t *ring, const int64_t *top, const double *pool,
                          Py_ssize_t width, const int64_t *heads, Py_ssize_t count, int64_t latest, uint64_t *bits, int32_t *tiles) {
    Py_ssize_t words = (places + 63) / 64, at = 0, found = 0;
    memset(bits, 0, (size_t)words * 8);
    for (Py_ssize_t k = 0; k < backs; k++) {
        int64_t horizon = floor_div(latest, hops[k].length) - hops[k].places + 1, newest = top[k] - floor_div(top[k], hops[k].places) * hops[k].places;
        for (int64_t place = 0; place < hops[k].places; place++, at++) {
            int64_t age = newest - place + (place > newest ? hops[k].places : 0);
            if (ring[at] && top[k] - age >= horizon) {
                bits[at / 64] |= (uint64_t)1 << at % 64;
                tiles[found++] = ring[at];
            }
        }
    }
    PyObject *made = PyBytes_FromStringAndSize(NULL, (count + backs + words + found * width) * 8);
    if (!made)
        return NULL;
    byte *p = (byte *)PyBytes_AS_STRING(made);
    memcpy(p, heads, (size_t)count * 8);
    p += count * 8;
    for (Py_ssize_t k = 0; k < backs; k++, p += 8) {
        bool stale = top[k] < floor_div(latest, hops[k].length) - hops[k].places + 1;
        memcpy(p, stale ? &NEVER : &top[k], 8);
    }
    memcpy(p, bits, (size_t)words * 8);
    p += words * 8;
    for (Py_ssize_t k = 0; k < found; k++, p += width * 8)
        memcpy(p, pool + tiles[k] * width, (size_t)width * 8);
    return made;
}

static PyObject *pack_windows(PyObject *module, PyObject *args) {
    PyObject *arrays, *made = NULL;
    long long latest;
    Py_buffer view[P_ARRAYS];
    Py_ssize_t sizes[P_ARRAYS], taken, places = 0;
    if (!PyArg_ParseTuple(args, "O!L:pack_windows", &PyTuple_Type, &arrays, &latest))
        return NULL;
    void *room = NULL;
    if ((taken = get_arrays(arrays, "lildll", false, view, sizes)) < P_ARRAYS)
        goto done;
    const LookBack *hops = view[P_HOPS].buf;
    const int64_t *slot = view[P_SLOTS].buf;
    Py_ssize_t backs = sizes[P_HOPS] / 3, rows = sizes[P_SLOTS], width = view[P_POOL].ndim == 2 ? view[P_POOL].shape[1] : 0;
    bool fits = backs > 0 && width > 0 && (!rows || sizes[P_HEADS] % rows == 0);
    for (Py_ssize_t k = 0; fits && k < backs; k++) {
        fits = hops[k].length > 0 && hops[k].places > 0 && hops[k].places <= INT32_MAX;
        places += hops[k].places;
    }
    for (Py_ssize_t row = 0; fits && row < rows; row++)
        fits = slot[row] >= 0 && slot[row] < sizes[P_RING] / places && slot[row] < sizes[P_TOP] / backs;
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "the arrays of windows have other sizes");
    else if (!(room = PyMem_Malloc((size_t)(places + 63) * 8)))
        PyErr_NoMemory();
    else
        made = PyList_New(rows);
    for (Py_ssize_t row = 0; made && row < rows; row++) {
        Py_ssize_t count = sizes[P_HEADS] / rows;
        uint64_t *bits = room;
        const int32_t *ring = view[P_RING].buf;
        for (Py_ssize_t k = 0; row + FAR < rows && k < places; k += 16)
            PREFETCH(ring + slot[row + FAR] * places + k);
        for (Py_ssize_t k = 0; row + NEAR < rows && k < places; k++)
            PREFETCH((double *)view[P_POOL].buf + ring[slot[row + NEAR] * places + k] * width);
        PyObject *one = pack_key(hops, backs, places, ring + slot[row] * places, (int64_t *)view[P_TOP].buf + slot[row] * backs,
                                 view[P_POOL].buf, width, (int64_t *)view[P_HEADS].buf + row * count, count, latest, bits,
                                 (int32_t *)(bits + (places + 63) / 64));
        if (!one || PyList_SetItem(made, row, one) < 0)
            Py_CLEAR(made);
    }
done:
    PyMem_Free(room);
    while (taken--)
        PyBuffer_Release(&view[taken]);
    return made;
}

/* -- the module ---------------------------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"crc32c", crc32c, METH_VARARGS, "The CRC-32C of bytes."},
    {"encode_records", encode_records, METH_VARARGS, "Outputs as the records of a batch, and the first and the latest timestamp."},
    {"weigh", weigh, METH_VARARGS, "The bytes of the keys and values of outputs."},
    {"shortest", shortest, METH_VARARGS, "Each float32 as the double with its shortest digits."},
    {"fold_windows", fold_windows, METH_VARARGS, "Rows through the rings of keyed windows."},
    {"pack_windows", pack_windows, METH_VARARGS, "The bytes of keys of windows."},
    {"unpack_records", unpack_records, METH_VARARGS, "The records of one batch from an offset on; None for others."},
    {"unpack_fetch", unpack_fetch, METH_VARARGS, "The records of fetched batches from an offset on, and the next offset; None for others."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "penstock._native", .m_doc = "Work per event that is slow in Python.", .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void) {
    crc_prepare();
    for (int c = 0x20; c < 0x80; c++)
        plain[c] = c != '"' && c != '\\';
#ifdef CRC_IN_HARDWARE
    unsigned a, b, c, d; /* asks the processor, because __builtin_cpu_supports is always false with zig's runtime library */
    if (__get_cpuid(1, &a, &b, &c, &d) && c & 1u << 20) /* SSE4.2 */
        crc_update = crc_hardware;
#endif
    name_offset = PyUnicode_InternFromString("offset");
    name_timestamp = PyUnicode_InternFromString("timestamp");
    name_key = PyUnicode_InternFromString("key");
    PyObject *columns = PyType_FromSpec(&json_spec);
    RecordType = (PyTypeObject *)PyType_FromSpec(&record_spec);
    PyObject *module = name_offset && name_timestamp && name_key && columns && RecordType ? PyModule_Create(&definition) : NULL;
    if (module && (PyModule_AddObjectRef(module, "Record", (PyObject *)RecordType) < 0
                   || PyModule_AddObjectRef(module, "JsonColumns", columns) < 0))
        Py_CLEAR(module);
    Py_XDECREF(columns);
    return module;
}
