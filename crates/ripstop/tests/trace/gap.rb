# Another thread makes the call: it cannot be attributed, and must not be guessed.
require 'net/http'
require 'socket'

server = TCPServer.new(8080)
loop do
  Thread.new(server.accept) do |client|
    path = client.gets.to_s.split[1].to_s
    nil until client.gets.to_s.strip.empty?
    Thread.new { Net::HTTP.get(URI("http://leaf#{path}&by=gap")) }.join if path.include?('id=')
    client.write "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    client.close
  end
end
