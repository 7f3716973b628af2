import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.Collections;
import java.util.List;

/**
 * Refuses the writes of requests that a newer one of their key has overtaken. Made to be
 * copied into a service behind a strict route of lanekeeper: Java 17, jakarta.servlet,
 * JDBC, PostgreSQL, and the table fences of fence.sql.
 *
 * <p>The filter reads the fence of a request, and {@link #guard} checks it as the first
 * statement of the transaction that writes. Checked anywhere else, a process may stand
 * still between the check and the write, and write what is long outdated.
 *
 * <p>lanekeeper removes these headers from what clients send. A service that others can
 * reach as well must not believe them: whoever can choose a fence can lock everybody
 * else out of a key.
 */
public final class FenceFilter implements Filter {
    private static final String FENCE = "Lanekeeper-Fence";
    private static final String KEY = "Lanekeeper-Key";

    /**
     * A newer request of the key was here before. Nothing must be written; the filter
     * answers 409. Unchecked, since most frameworks roll back for nothing else.
     */
    public static final class StaleFence extends RuntimeException {
        private static final long serialVersionUID = 1;

        StaleFence() {
            super("a newer request of this key was here before");
        }
    }

    @Override
    public void doFilter(ServletRequest request, ServletResponse response, FilterChain chain)
            throws IOException, ServletException {
        HttpServletRequest in = (HttpServletRequest) request;
        HttpServletResponse out = (HttpServletResponse) response;
        List<String> fences = Collections.list(in.getHeaders(FENCE));
        List<String> keys = Collections.list(in.getHeaders(KEY));
        if (fences.size() != 1 || keys.size() != 1 || keys.get(0).isEmpty()) {
            out.sendError(HttpServletResponse.SC_BAD_REQUEST, "needs one " + FENCE + " and one " + KEY);
            return;
        }
        long fence;
        try {
            fence = parse(fences.get(0));
        } catch (NumberFormatException e) {
            out.sendError(HttpServletResponse.SC_BAD_REQUEST, "not a fence");
            return;
        }
        in.setAttribute(FENCE, fence);
        in.setAttribute(KEY, keys.get(0));
        try {
            chain.doFilter(in, out);
        } catch (ServletException | RuntimeException e) {
            if (!isStale(e) || out.isCommitted()) {
                throw e;
            }
            out.sendError(HttpServletResponse.SC_CONFLICT, "a newer request of this key was here before");
        }
    }

    /** Frameworks wrap what a handler throws. */
    private static boolean isStale(Throwable e) {
        for (; e != null; e = e.getCause()) {
            if (e instanceof StaleFence) {
                return true;
            }
        }
        return false;
    }

    /**
     * Reads a fence: a decimal between 1 and Long.MAX_VALUE. It takes only what lanekeeper
     * writes, so neither a sign nor a leading zero.
     */
    static long parse(String value) {
        if (!value.matches("[1-9][0-9]{0,18}")) {
            throw new NumberFormatException("not a fence");
        }
        return Long.parseLong(value);
    }

    // One statement, for what is read first and written later may change in between. The
    // row stays locked to the end of the transaction, whether it was changed or not.
    private static final String GUARD = """
            INSERT INTO fences AS seen (key, fence) VALUES (?, ?)
            ON CONFLICT (key) DO UPDATE SET fence = excluded.fence
            WHERE seen.fence <= excluded.fence""";

    /**
     * Throws StaleFence if a higher fence of the request's key was seen before. Otherwise
     * it remembers this one, and other requests of the key wait here until the transaction
     * ends. So call it first: what was read before it may be outdated. The same fence is
     * accepted again, since one request may need several transactions.
     */
    public static void guard(Connection connection, ServletRequest request) throws SQLException {
        if (connection.getAutoCommit()) {
            throw new IllegalStateException("the fence belongs into the transaction of the write: setAutoCommit(false)");
        }
        Long fence = (Long) request.getAttribute(FENCE);
        if (fence == null) {
            throw new IllegalStateException("the request did not pass FenceFilter");
        }
        try (PreparedStatement statement = connection.prepareStatement(GUARD)) {
            statement.setString(1, (String) request.getAttribute(KEY));
            statement.setLong(2, fence);
            if (statement.executeUpdate() == 0) {
                throw new StaleFence();
            }
        }
    }
}
