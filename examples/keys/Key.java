// The key of inputs, as docs/precompute.md specifies it. Java 17. `java Key.java vectors.txt` checks the vectors.

import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.RoundingMode;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;

public final class Key {
    /** The canonical form of fields whose values were written by the functions below. Names are ASCII, so TreeMap has their order. */
    static String canonical(Map<String, String> fields) {
        StringBuilder form = new StringBuilder("penstock-key-1\n");
        new TreeMap<>(fields).forEach((name, value) -> form.append(name).append('=').append(value).append('\n'));
        return form.toString();
    }

    static String key(Map<String, String> fields) throws Exception {
        byte[] form = canonical(fields).getBytes(StandardCharsets.UTF_8);
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(form));
    }

    static String nothing() {
        return "n";
    }

    static String bool(boolean value) {
        return value ? "true" : "false";
    }

    static String whole(BigInteger value) {
        return "i" + value;
    }

    /** Microseconds since 1970-01-01T00:00:00Z. */
    static String time(long micros) {
        return "t" + micros;
    }

    /** Of the exact binary value: `new BigDecimal(double)`, not `BigDecimal.valueOf`, which goes by the printed digits. */
    static String number(double value, int decimals) {
        BigDecimal rounded = new BigDecimal(value).setScale(decimals, RoundingMode.HALF_EVEN);
        return "d" + rounded.toPlainString();
    }

    /** Of a field of the type float: the value is rounded to 32 bits first. */
    static String single(double value, int decimals) {
        return number((float) value, decimals);
    }

    static String text(String value) {
        return "s" + value.getBytes(StandardCharsets.UTF_8).length + ":" + value;
    }

    static String list(List<String> items) {
        return items.stream().map(item -> item + ",").collect(Collectors.joining("", "[", "]"));
    }

    // -- the vectors: lines of NAME KIND DECIMALS VALUE, then `key HEX`; text is in hex of its UTF-8 ----------------------

    static String value(String kind, int decimals, String given) {
        if (kind.endsWith("[]")) {
            List<String> items = new ArrayList<>();
            for (String item : given.isEmpty() ? new String[0] : given.split(";", -1)) {
                items.add(value(kind.substring(0, kind.length() - 2), decimals, item));
            }
            return list(items);
        }
        return switch (kind) {
            case "null" -> nothing();
            case "boolean" -> bool(given.equals("true"));
            case "long" -> whole(new BigInteger(given));
            case "timestamp" -> time(Long.parseLong(given));
            case "double" -> number(Double.parseDouble(given), decimals);
            case "float" -> single(Double.parseDouble(given), decimals);
            case "string" -> text(new String(HexFormat.of().parseHex(given), StandardCharsets.UTF_8));
            default -> throw new IllegalArgumentException(kind);
        };
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> fields = new TreeMap<>();
        int checked = 0;
        for (String line : Files.readAllLines(Path.of(arguments[0]), StandardCharsets.US_ASCII)) {
            if (line.isEmpty() || line.startsWith("#")) {
                continue;
            }
            String[] part = line.split(" ", -1);
            if (!part[0].equals("key")) {
                fields.put(part[0], value(part[1], Integer.parseInt(part[2]), part[3]));
                continue;
            }
            if (!key(fields).equals(part[1])) {
                System.err.println("differs: " + part[1] + "\n" + canonical(fields));
                System.exit(1);
            }
            fields.clear();
            checked++;
        }
        System.out.println(checked + " keys are equal");
    }
}
