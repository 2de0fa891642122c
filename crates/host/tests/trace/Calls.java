// com.sun.net.httpserver with a pool of threads, or a thread per connection on a ServerSocket; HttpURLConnection and
// java.net.http. `java Calls.java KIND LEAF_PORT` prints its own port; KIND is pool or threads.
import com.sun.net.httpserver.HttpServer;
import java.io.*;
import java.net.*;
import java.net.http.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.regex.*;

public class Calls {
    static int leaf;
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final ExecutorService POOL = Executors.newFixedThreadPool(8);
    static final ScheduledExecutorService TIMER = Executors.newScheduledThreadPool(2);

    static void pause() throws Exception {
        Thread.sleep(ThreadLocalRandom.current().nextInt(10));
    }

    static void call(String path) {
        try {
            URLConnection connection = new URL("http://127.0.0.1:" + leaf + path).openConnection();
            try (InputStream body = connection.getInputStream()) {
                body.readAllBytes();
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    static void modern(String path) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + leaf + path))
            .version(HttpClient.Version.HTTP_1_1).build();
        CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
    }

    static Runnable work(String pattern, String id) throws Exception {
        String mine = "/leaf?id=" + id, late = "/late?id=" + id;
        switch (pattern) {
            case "delayed": pause(); call(mine); break;
            case "sequential": for (int i = 0; i < 3; i++) { call(mine); pause(); } break;
            case "modern": modern(mine); break;
            case "fanout":
                List<Thread> threads = new ArrayList<>();
                for (int i = 0; i < 3; i++) threads.add(new Thread(() -> call(mine)));
                for (Thread thread : threads) thread.start();
                for (Thread thread : threads) thread.join();
                break;
            case "executor": POOL.submit(() -> call(mine)).get(); break;
            case "timer": TIMER.schedule(() -> call(mine), 5, TimeUnit.MILLISECONDS).get(); break;
            case "after": call(mine); return () -> call(late);
            case "straggler": TIMER.schedule(() -> call(late), 8, TimeUnit.MILLISECONDS); break;
            default: call(mine);
        }
        return null;
    }

    static String field(String text, String name) {
        Matcher matcher = Pattern.compile(name + "=(\\w+)").matcher(text);
        matcher.find();
        return matcher.group(1);
    }

    static void serve(Socket client) {
        try (client) {
            InputStream in = new BufferedInputStream(client.getInputStream());
            for (;;) {
                StringBuilder head = new StringBuilder();
                while (head.indexOf("\r\n\r\n") < 0) {
                    int next = in.read();
                    if (next < 0) return;
                    head.append((char) next);
                }
                Matcher length = Pattern.compile("(?i)content-length: (\\d+)").matcher(head);
                if (length.find()) in.readNBytes(Integer.parseInt(length.group(1)));
                Runnable later = work(field(head.toString(), "pattern"), field(head.toString(), "id"));
                client.getOutputStream().write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".getBytes());
                if (later != null) later.run();
            }
        } catch (Exception error) {
            if (!(error instanceof SocketException)) error.printStackTrace();
        }
    }

    public static void main(String[] words) throws Exception {
        leaf = Integer.parseInt(words[words.length - 1]);
        System.setProperty("http.keepAlive", "true");
        TIMER.scheduleWithFixedDelay(() -> call("/background"), 0, 5, TimeUnit.MILLISECONDS);
        InetSocketAddress any = new InetSocketAddress("127.0.0.1", 0);
        if (words[0].equals("pool")) {
            HttpServer server = HttpServer.create(any, 128);
            server.setExecutor(Executors.newFixedThreadPool(60));
            server.createContext("/", exchange -> {
                exchange.getRequestBody().readAllBytes();
                String query = exchange.getRequestURI().getQuery();
                Runnable later;
                try {
                    later = work(field(query, "pattern"), field(query, "id"));
                } catch (Exception error) {
                    throw new IOException(error);
                }
                exchange.sendResponseHeaders(200, 2);
                exchange.getResponseBody().write("ok".getBytes());
                exchange.close();
                if (later != null) later.run();
            });
            server.start();
            System.out.println(server.getAddress().getPort());
        } else {
            ServerSocket listener = new ServerSocket();
            listener.bind(any, 128);
            System.out.println(listener.getLocalPort());
            for (;;) {
                Socket client = listener.accept();
                new Thread(() -> serve(client)).start();
            }
        }
    }
}
