# Reviews, flaky: GET /reviews/ID fails with 503 one time in three (FAIL_EVERY; 0 never).
require "json"
require "socket"

PORT = Integer(ENV.fetch("PORT", "8080"))
FAIL_EVERY = Integer(ENV.fetch("FAIL_EVERY", "3"))
LOCK = Mutex.new
$served = 0
REASONS = { 200 => "OK", 404 => "Not Found", 503 => "Service Unavailable" }.freeze

def answer(path)
  return [200, { ok: true }] if path == "/healthz"

  id = path[%r{\A/reviews/(\d{1,6})\z}, 1] or return [404, { error: "there is GET /reviews/ID" }]
  number = LOCK.synchronize { $served += 1 }
  return [503, { error: "flaky" }] if FAIL_EVERY.positive? && (number % FAIL_EVERY).zero?

  [200, { stars: 3 + id.to_i % 3, reviews: ["Held through the storm.", "As described."] }]
end

def serve(client)
  while (line = client.gets)
    _method, path, = line.split
    close = false
    while (header = client.gets) && header != "\r\n"
      close = true if header.match?(/\Aconnection:\s*close/i)
    end
    status, content = answer(path.to_s)
    text = JSON.generate(content)
    client.write("HTTP/1.1 #{status} #{REASONS.fetch(status)}\r\ncontent-type: application/json\r\n" \
                 "content-length: #{text.bytesize}\r\n\r\n#{text}")
    break if close
  end
rescue SystemCallError, IOError
  # The client went away: nothing to answer.
ensure
  client.close
end

# Reachable through the mesh although it listens on its own loopback only.
server = TCPServer.new("127.0.0.1", PORT)
server.listen(128)
trap("TERM") { exit }
trap("INT") { exit }
$stdout.sync = true
puts "reviews: listening on port #{PORT}"
loop { Thread.new(server.accept) { |client| serve(client) } }
