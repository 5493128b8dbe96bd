// Sends a picture through chatfiles and opens it again, with the Easemob API or the Lanying API. Java 11 or later, no
// packages. examples/README.md lists the settings.
//
//     java examples/java/Chatfiles.java easemob client-credentials photo.jpg
//     java examples/java/Chatfiles.java lanying jwt photo.jpg

import java.io.FilterInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.SequenceInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodySubscribers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

import static java.nio.charset.StandardCharsets.UTF_8;

public final class Chatfiles {
    static final String URL = setting("FILES_URL", "http://127.0.0.1:8080");
    static final String TENANT = setting("FILES_TENANT", "easemob-demo/chatdemoui");
    static final String APP_ID = setting("FILES_APP_ID", "welovemaxim");
    static final String CLIENT_ID = setting("FILES_CLIENT_ID", TENANT.replace('/', '.'));
    static final String USER = setting("FILES_USER", "alice");
    static final int TRIES_MAX = 5;
    static final long WAIT_SECONDS_MAX = 30;

    // Redirects (download_auth = "signed") are followed below, without the credentials.
    static final HttpClient CLIENT = HttpClient.newBuilder()
            .connectTimeout(Duration.ofSeconds(10)).followRedirects(HttpClient.Redirect.NEVER)
            .version(HttpClient.Version.HTTP_1_1).build();

    /** What the user of this program is told. */
    static final class Failure extends RuntimeException {
        private static final long serialVersionUID = 1;

        Failure(String message) { super(message); }
    }

    static String setting(String name, String fallback) {
        String value = System.getenv(name);
        return value != null ? value : fallback;
    }

    static String required(String name) {
        String value = System.getenv(name);
        if (value == null) throw new Failure("set " + name);
        return value;
    }

    // --- Tokens: one of these three. A client never has the secrets: this is the part of your backend. ---

    static String token(String kind) throws Exception {
        switch (kind) {
            case "client-credentials": return clientCredentials();
            case "dynamic": return dynamic();
            case "jwt": return jwt();
            default: throw new Failure("no such token: " + kind);
        }
    }

    /** chatfiles issues the token: one of the application, then one of the user. Keep the former for its lifetime. */
    static String clientCredentials() throws Exception {
        String app = grant("{\"grant_type\":\"client_credentials\",\"client_id\":" + quoted(CLIENT_ID)
                + ",\"client_secret\":" + quoted(required("FILES_CLIENT_SECRET")) + "}", Map.of());
        return grant("{\"grant_type\":\"inherit\",\"username\":" + quoted(USER) + ",\"ttl\":3600}",
                Map.of("Authorization", "Bearer " + app));
    }

    static String grant(String json, Map<String, String> headers) throws Exception {
        Call call = new Call("POST", URL + "/" + TENANT + "/token");
        call.headers.putAll(headers);
        call.headers.put("Content-Type", "application/json");
        call.json = json;
        Answer answer = waiting(call);
        if (answer.status != 200) throw new Failure("no token: " + answer);
        return text(answer.text, "access_token");
    }

    /** Easemob's dynamic token: no request. dynamic_token_ttl_seconds of the tenant must contain this ttl. */
    static String dynamic() throws GeneralSecurityException {
        String appkey = TENANT.replace('/', '#');
        long now = Instant.now().getEpochSecond();
        int ttl = 600;
        String signed = CLIENT_ID + appkey + USER + now + ttl + required("FILES_CLIENT_SECRET");
        StringBuilder signature = new StringBuilder();
        for (byte part : MessageDigest.getInstance("SHA-256").digest(signed.getBytes(UTF_8))) {
            signature.append(String.format("%02x", part));
        }
        String token = "{\"signature\":\"" + signature + "\",\"appkey\":" + quoted(appkey)
                + ",\"userId\":" + quoted(USER) + ",\"curTime\":" + now + ",\"ttl\":" + ttl + "}";
        return base64url(("dt-" + token).getBytes(UTF_8));
    }

    /** A JWT of your own backend: no request. [tenant.auth.jwt] of the tenant has the same key, issuer and audience. */
    static String jwt() throws GeneralSecurityException {
        long now = Instant.now().getEpochSecond();
        String claims = "{\"iss\":" + quoted(setting("FILES_JWT_ISSUER", "https://chat.example.com"))
                + ",\"aud\":" + quoted(setting("FILES_JWT_AUDIENCE", "chatfiles"))
                + ",\"sub\":" + quoted(USER) + ",\"app\":" + quoted(TENANT)
                + ",\"iat\":" + now + ",\"exp\":" + (now + 600) + "}";
        String signed = base64url("{\"alg\":\"HS256\",\"typ\":\"JWT\"}".getBytes(UTF_8)) + "."
                + base64url(claims.getBytes(UTF_8));
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(required("FILES_JWT_SECRET").getBytes(UTF_8), "HmacSHA256"));
        return signed + "." + base64url(mac.doFinal(signed.getBytes(UTF_8)));
    }

    static String base64url(byte[] bytes) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(bytes);
    }

    // --- JSON. The JDK has no parser; the members that are needed here are texts and numbers with names of their own.
    //     Use the parser of your application instead. ---

    static String quoted(String text) {
        return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"") + "\"";
    }

    static String text(String json, String name) {
        Matcher found = Pattern.compile("\"" + name + "\":\"([^\"\\\\]*)\"").matcher(json);
        if (!found.find()) throw new Failure("no " + name + " in " + json);
        return found.group(1);
    }

    /** The code of a response of the Lanying API; -1 if it has none. */
    static int code(Answer answer) {
        Matcher found = Pattern.compile("\"code\":([0-9]+)").matcher(answer.text);
        return found.find() ? Integer.parseInt(found.group(1)) : -1;
    }

    // --- One HTTP request ---

    static final class Call {
        final String method;
        final String url;
        final Map<String, String> headers = new LinkedHashMap<>();
        String json;                 // a JSON body, or
        Map<String, String> fields;  // a form with these fields
        Path file;                   // and this file
        Path saveTo;                 // where a file is written, if the response is one

        Call(String method, String url) {
            this.method = method;
            this.url = url;
        }
    }

    static final class Answer {
        int status;
        long retryAfter;
        String text = "";
        long saved = -1;

        @Override public String toString() { return status + " " + text; }
    }

    static Answer exchange(Call call) throws IOException, InterruptedException {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(call.url)).timeout(Duration.ofMinutes(5));
        call.headers.forEach(request::header);
        if (call.file != null) {
            String boundary = "chatfiles-" + UUID.randomUUID();
            request.header("Content-Type", "multipart/form-data; boundary=" + boundary);
            request.method(call.method, form(call, boundary));
        } else if (call.json != null) {
            request.method(call.method, BodyPublishers.ofString(call.json));
        } else {
            request.method(call.method, BodyPublishers.noBody());
        }
        HttpResponse<Object> response = CLIENT.send(request.build(), head -> {
            String type = head.headers().firstValue("Content-Type").orElse("");
            boolean isFile = call.saveTo != null && head.statusCode() == 200 && !type.startsWith("application/json");
            return isFile
                    ? BodySubscribers.mapping(BodySubscribers.ofFile(call.saveTo), path -> (Object) path)
                    : BodySubscribers.mapping(BodySubscribers.ofString(UTF_8), string -> (Object) string);
        });
        if (response.statusCode() == 302) {
            Call signed = new Call("GET", response.headers().firstValue("Location").orElseThrow());
            signed.saveTo = call.saveTo;
            return exchange(signed);
        }
        Answer answer = new Answer();
        answer.status = response.statusCode();
        answer.retryAfter = response.headers().firstValueAsLong("Retry-After").orElse(1);
        if (response.body() instanceof Path) answer.saved = Files.size((Path) response.body());
        else answer.text = (String) response.body();
        return answer;
    }

    /** Streams the form with a Content-Length. Each tenth of the file is printed. */
    static BodyPublisher form(Call call, String boundary) throws IOException {
        StringBuilder head = new StringBuilder();
        call.fields.forEach((name, value) -> head.append("--").append(boundary)
                .append("\r\nContent-Disposition: form-data; name=\"").append(name).append("\"\r\n\r\n")
                .append(value).append("\r\n"));
        String type = Files.probeContentType(call.file);
        head.append("--").append(boundary).append("\r\nContent-Disposition: form-data; name=\"file\"; filename=\"")
                .append(call.file.getFileName().toString().replace('"', '_')).append("\"\r\nContent-Type: ")
                .append(type != null ? type : "application/octet-stream").append("\r\n\r\n");
        byte[] start = head.toString().getBytes(UTF_8);
        byte[] end = ("\r\n--" + boundary + "--\r\n").getBytes(UTF_8);
        long size = Files.size(call.file);
        return BodyPublishers.fromPublisher(BodyPublishers.ofInputStream(() -> {
            try {
                List<InputStream> parts = new ArrayList<>();
                parts.add(new java.io.ByteArrayInputStream(start));
                parts.add(new Progress(Files.newInputStream(call.file), size));
                parts.add(new java.io.ByteArrayInputStream(end));
                return new SequenceInputStream(Collections.enumeration(parts));
            } catch (IOException error) {
                throw new java.io.UncheckedIOException(error);
            }
        }), start.length + size + end.length);
    }

    static final class Progress extends FilterInputStream {
        final long size;
        long sent;
        long printed;

        Progress(InputStream file, long size) {
            super(file);
            this.size = size;
        }

        @Override public int read(byte[] into, int from, int length) throws IOException {
            int count = super.read(into, from, length);
            if (count > 0 && (sent += count) * 10 / size > printed) {
                printed = sent * 10 / size;
                System.err.println("sent " + printed * 10 + " %");
            }
            return count;
        }
    }

    // --- Errors that a client should handle ---

    /** Repeats a request that was refused for now: 429 and 503 say in Retry-After when to come back. */
    static Answer waiting(Call call) throws IOException, InterruptedException {
        for (int attempt = 1; ; attempt++) {
            Answer answer = exchange(call);
            if (answer.status != 429 && answer.status != 503) return answer;
            // A daily quota ends at midnight: tell the user instead of waiting.
            if (attempt == TRIES_MAX || answer.retryAfter > WAIT_SECONDS_MAX) {
                throw new Failure("refused for " + answer.retryAfter + " s: " + answer);
            }
            System.err.println(answer.status + ": trying again in " + answer.retryAfter + " s");
            Thread.sleep(answer.retryAfter * 1000);
        }
    }

    /** Requests with a token. A refused token is replaced once; a second refusal is an error. */
    static final class Session {
        final String kind;
        String token;

        Session(String kind) throws Exception {
            this.kind = kind;
            this.token = Chatfiles.token(kind);
        }

        Answer call(Call call, String header, String prefix, Predicate<Answer> isExpired) throws Exception {
            call.headers.put(header, prefix + token);
            Answer answer = waiting(call);
            if (isExpired.test(answer)) {
                System.err.println("the token was refused: obtaining a new one");
                token = Chatfiles.token(kind);
                call.headers.put(header, prefix + token);
                answer = waiting(call);
            }
            if (answer.status == 413) throw new Failure("the file is too large: " + answer.text);
            return answer;
        }
    }

    // --- The Easemob API ---

    static void easemob(String kind, Path file) throws Exception {
        Session session = new Session(kind);
        Call upload = new Call("POST", URL + "/" + TENANT + "/chatfiles");
        // With restrict-access, a download needs the share-secret: put it into the message, with the URL.
        upload.headers.put("restrict-access", "true");
        upload.fields = Map.of();
        upload.file = file;
        String entity = easemob(session, upload).text;
        String url = upload.url + "/" + text(entity, "uuid");
        System.out.println("uploaded: " + url);
        for (boolean thumbnail : new boolean[] {false, true}) {
            Call download = new Call("GET", url);
            download.headers.put("share-secret", text(entity, "share-secret"));
            if (thumbnail) download.headers.put("thumbnail", "true");
            download.saveTo = output(file, thumbnail);
            report(file, thumbnail, easemob(session, download));
        }
    }

    static Answer easemob(Session session, Call call) throws Exception {
        Answer answer = session.call(call, "Authorization", "Bearer ", refused -> refused.status == 401);
        if (answer.status != 200) throw new Failure(answer.toString());
        return answer;
    }

    // --- The Lanying API ---

    static void lanying(String kind, Path file) throws Exception {
        Session session = new Session(kind);
        // 102: a picture in a chat. to_type 1: a user.
        String path = "/file/upload/chat?file_type=102&to_type=1&to_id=bob";
        String ticket = lanying(session, new Call("GET", URL + path)).text;
        // The upload has no token: the ticket is its permission. Its errors are XML, as those of OSS.
        Call upload = new Call("POST", text(ticket, "upload_url"));
        upload.fields = new LinkedHashMap<>();
        for (String name : List.of("OSSAccessKeyId", "policy", "signature", "callback", "key")) {
            upload.fields.put(name, text(ticket, name));
        }
        upload.file = file;
        Answer uploaded = waiting(upload);
        if (uploaded.text.contains("EntityTooLarge")) throw new Failure("the file is too large: " + uploaded.text);
        if (uploaded.status != 200) throw new Failure(uploaded.toString());
        // The message to bob has this URL. He needs a token of his own to open it.
        String url = text(ticket, "download_url");
        System.out.println("uploaded: " + url);
        for (boolean thumbnail : new boolean[] {false, true}) {
            Call download = new Call("GET", thumbnail ? url + "&image_type=2" : url);
            download.saveTo = output(file, thumbnail);
            report(file, thumbnail, lanying(session, download));
        }
    }

    /** Errors have status 200 and a code; 402 and 10008 are tokens that are no longer valid. */
    static Answer lanying(Session session, Call call) throws Exception {
        call.headers.put("app_id", APP_ID);
        Predicate<Answer> isExpired = refused -> code(refused) == 402 || code(refused) == 10008;
        Answer answer = session.call(call, "access-token", "", isExpired);
        if (answer.saved < 0 && code(answer) != 200) throw new Failure(answer.toString());
        return answer;
    }

    static Path output(Path file, boolean thumbnail) {
        return Path.of((thumbnail ? "thumbnail-of-" : "copy-of-") + file.getFileName());
    }

    static void report(Path file, boolean thumbnail, Answer answer) throws IOException {
        if (!thumbnail && !Arrays.equals(Files.readAllBytes(file), Files.readAllBytes(output(file, false)))) {
            throw new Failure("the copy differs");
        }
        System.out.println((thumbnail ? "thumbnail: " : "downloaded: ") + answer.saved + " bytes");
    }

    public static void main(String[] arguments) {
        try {
            String api = arguments.length == 3 ? arguments[0] : "";
            if (api.equals("easemob")) easemob(arguments[1], Path.of(arguments[2]));
            else if (api.equals("lanying")) lanying(arguments[1], Path.of(arguments[2]));
            else throw new Failure("usage: Chatfiles.java easemob|lanying client-credentials|dynamic|jwt FILE");
        } catch (Exception error) {
            System.err.println("error: " + (error instanceof Failure ? error.getMessage() : error));
            System.exit(1);
        }
    }
}
