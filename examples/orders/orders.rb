# The order service: POST /orders {"user": "ID"} looks the user up and answers with the order.
#
# Its only remote call is one plain Net::HTTP.get. It has no retry code, no timeout code and knows of no mesh.
require "json"
require "net/http"
require "socket"
require "uri"

PORT = Integer(ENV.fetch("PORT", "8080"))
USERS = ENV.fetch("USERS", "http://user-service")

def place(order)
  user = JSON.parse(Net::HTTP.get(URI("#{USERS}/users/#{order.fetch("user")}")))
  [201, { order: "order-for-#{user.fetch("id")}", name: user.fetch("name") }]
end

def answer(method, path, body)
  case [method, path]
  when ["GET", "/healthz"] then [200, { ok: true }]
  when ["POST", "/orders"] then place(JSON.parse(body))
  else [404, { error: "there is POST /orders and GET /healthz" }]
  end
rescue JSON::ParserError, KeyError => e
  [502, { error: "the user service gave no user: #{e.message.lines.first.to_s.strip}" }]
rescue SystemCallError, EOFError, SocketError, Net::ProtocolError, Timeout::Error => e
  [502, { error: "the user service cannot be reached: #{e.message}" }]
end

REASONS = { 200 => "OK", 201 => "Created", 404 => "Not Found", 502 => "Bad Gateway" }.freeze

def serve(client)
  while (line = client.gets)
    method, path, = line.split
    headers = {}
    while (header = client.gets) && header != "\r\n"
      name, value = header.split(":", 2)
      headers[name.downcase] = value.to_s.strip
    end
    body = client.read(Integer(headers.fetch("content-length", "0")))
    status, content = answer(method, path, body)
    text = JSON.generate(content)
    client.write("HTTP/1.1 #{status} #{REASONS.fetch(status)}\r\ncontent-type: application/json\r\n" \
                 "content-length: #{text.bytesize}\r\n\r\n#{text}")
    break if headers["connection"].to_s.casecmp?("close")
  end
rescue SystemCallError, IOError
  # The client went away: nothing to answer.
ensure
  client.close
end

server = TCPServer.new("127.0.0.1", PORT)
server.listen(128)
trap("TERM") { exit }
trap("INT") { exit }
$stdout.sync = true
puts "orders: listening on port #{PORT}"
loop { Thread.new(server.accept) { |client| serve(client) } }
