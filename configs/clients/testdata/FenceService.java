import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import jakarta.servlet.FilterChain;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A service with FenceFilter, for a test: PUT and GET of orders. The JDK's own server stands
 * in for a servlet container, as far as the filter asks for one.
 */
public final class FenceService {
    private static String database;

    public static void main(String[] args) throws Exception {
        database = args[0];
        try (Connection db = DriverManager.getConnection(database)) {
            db.createStatement().execute("CREATE TABLE fences (key text PRIMARY KEY, fence bigint NOT NULL)");
            db.createStatement().execute("CREATE TABLE orders (id text PRIMARY KEY, value text)");
        }
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/", FenceService::serve);
        server.start();
        System.out.println("http://127.0.0.1:" + server.getAddress().getPort());
    }

    private static void serve(HttpExchange exchange) throws IOException {
        String id = exchange.getRequestURI().getPath();
        String value = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
        try {
            if (exchange.getRequestMethod().equals("GET")) {
                answer(exchange, 200, read(id));
                return;
            }
            int[] refused = {0};
            HttpServletRequest request = request(exchange);
            FilterChain chain = (in, out) -> write(request, id, value);
            new FenceFilter().doFilter(request, response(refused), chain);
            answer(exchange, refused[0] == 0 ? 200 : refused[0], "");
        } catch (Exception e) {
            answer(exchange, 500, e.toString());
        }
    }

    private static void write(HttpServletRequest request, String id, String value) {
        try (Connection db = DriverManager.getConnection(database)) {
            db.setAutoCommit(false);
            FenceFilter.guard(db, request);
            try (PreparedStatement statement = db.prepareStatement(
                    "INSERT INTO orders (id, value) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET value = excluded.value")) {
                statement.setString(1, id);
                statement.setString(2, value);
                statement.executeUpdate();
            }
            db.commit();
        } catch (SQLException e) {
            throw new IllegalStateException(e);
        }
    }

    private static String read(String id) throws SQLException {
        try (Connection db = DriverManager.getConnection(database);
                PreparedStatement statement = db.prepareStatement("SELECT value FROM orders WHERE id = ?")) {
            statement.setString(1, id);
            ResultSet rows = statement.executeQuery();
            return rows.next() ? rows.getString(1) : "";
        }
    }

    private static HttpServletRequest request(HttpExchange exchange) {
        Map<String, Object> attributes = new HashMap<>();
        return of(HttpServletRequest.class, (self, method, args) -> switch (method.getName()) {
            case "getHeaders" -> Collections.enumeration(exchange.getRequestHeaders().getOrDefault((String) args[0], List.of()));
            case "setAttribute" -> attributes.put((String) args[0], args[1]);
            case "getAttribute" -> attributes.get((String) args[0]);
            default -> throw new UnsupportedOperationException(method.getName());
        });
    }

    private static HttpServletResponse response(int[] refused) {
        return of(HttpServletResponse.class, (self, method, args) -> switch (method.getName()) {
            case "sendError" -> refused[0] = (Integer) args[0];
            case "isCommitted" -> false;
            default -> throw new UnsupportedOperationException(method.getName());
        });
    }

    private static <T> T of(Class<T> type, InvocationHandler handler) {
        return type.cast(Proxy.newProxyInstance(type.getClassLoader(), new Class<?>[] {type},
                (self, method, args) -> method.getReturnType() == void.class ? discard(handler.invoke(self, method, args)) : handler.invoke(self, method, args)));
    }

    private static Object discard(Object result) {
        return null;
    }

    private static void answer(HttpExchange exchange, int status, String text) throws IOException {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(status, bytes.length == 0 ? -1 : bytes.length);
        exchange.getResponseBody().write(bytes);
        exchange.close();
    }
}
