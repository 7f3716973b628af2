import java.io.IOException;
import java.net.ConnectException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpConnectTimeoutException;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.ThreadLocalRandom;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * How to call a service through lanekeeper, and repeat a request by what lanekeeper says of
 * it. Made to be copied: Java 17, nothing else. Where you have a JSON library, read the
 * members of a problem by it.
 *
 * <pre>java Retry.java POST http://127.0.0.1:7940/orders/7/items '{"n": 1}' [IDEMPOTENCY-KEY]</pre>
 */
public final class Retry {
    private static final String PROBLEM = "urn:lanekeeper:problem:";

    /**
     * The request was sent, and nobody knows what became of it. Look at the service before
     * you send anything else for the key.
     */
    public static final class Unknown extends Exception {
        private static final long serialVersionUID = 1;

        Unknown(String why) {
            super(why);
        }
    }

    /**
     * The request was not executed, and it is of no use, or no use any more, to send it again
     * as it is.
     */
    public static final class Refused extends Exception {
        private static final long serialVersionUID = 1;

        Refused(String why) {
            super(why);
        }
    }

    /**
     * Returns what the service answers, whatever it is. The request is repeated if it was not
     * executed and may be the next time, after what Retry-After says. If nobody knows, it is
     * repeated only if that cannot do it twice: it is a read, or has an Idempotency-Key that
     * its route looks at.
     */
    public static HttpResponse<String> send(HttpClient client, HttpRequest request, int attempts)
            throws Unknown, Refused, InterruptedException {
        boolean repeatable = List.of("GET", "HEAD").contains(request.method())
                || request.headers().firstValue("Idempotency-Key").isPresent();
        for (int attempt = 1;; attempt++) {
            boolean last = attempt == attempts;
            long pause = 0;
            try {
                HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
                String slug = slug(answer);
                if (slug == null) {
                    return answer;
                }
                String why = slug + ": " + member(answer.body(), "detail");
                if (!"no".equals(member(answer.body(), "executed"))) {
                    // A 409 says that the outcome of an earlier attempt is unknown, and stays so.
                    if (!repeatable || answer.statusCode() == 409 || last) {
                        throw new Unknown(why);
                    }
                } else {
                    String after = answer.headers().firstValue("Retry-After").orElse("");
                    boolean passes = after.matches("[0-9]{1,6}");
                    if (last || !passes && !List.of(429, 502, 503).contains(answer.statusCode())) {
                        throw new Refused(why);
                    }
                    pause = passes ? Long.parseLong(after) * 1000 : 0;
                }
            } catch (ConnectException | HttpConnectTimeoutException e) { // nothing was sent
                if (last) {
                    throw new Refused("no-connection: " + e);
                }
            } catch (IOException e) {
                if (!repeatable || last) {
                    throw new Unknown(e.toString());
                }
            }
            // Some more, so that clients which were refused together do not come together.
            Thread.sleep(pause + ThreadLocalRandom.current().nextLong(100L << Math.min(attempt - 1, 6)));
        }
    }

    /** The kind of lanekeeper's problem; null if it is the service that answers. */
    private static String slug(HttpResponse<String> answer) {
        if (!answer.headers().firstValue("Content-Type").orElse("").startsWith("application/problem+json")) {
            return null;
        }
        String type = member(answer.body(), "type");
        return type.startsWith(PROBLEM) ? type.substring(PROBLEM.length()) : null;
    }

    /** A member of a problem, as lanekeeper writes it; "" if there is none. */
    private static String member(String json, String name) {
        Matcher matcher = Pattern.compile("\"" + name + "\"\\s*:\\s*\"((?:[^\"\\\\]|\\\\.)*)\"").matcher(json);
        return matcher.find() ? matcher.group(1) : "";
    }

    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1)
                .connectTimeout(Duration.ofSeconds(5)).build();
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(args[1])).timeout(Duration.ofSeconds(60))
                .method(args[0], HttpRequest.BodyPublishers.ofString(args[2]));
        if (args.length > 3) {
            request.header("Idempotency-Key", args[3]);
        }
        try {
            System.out.println("answered " + send(client, request.build(), 5).statusCode());
        } catch (Refused e) {
            System.out.println("refused " + e.getMessage());
        } catch (Unknown e) {
            System.out.println("unknown " + e.getMessage());
        }
    }
}
