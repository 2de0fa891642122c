# A thread per connection, which does everything itself: the preloaded object sees its calls.
require 'net/http'
require 'socket'

server = TCPServer.new(8080)
loop do
  Thread.new(server.accept) do |client|
    path = client.gets.to_s.split[1].to_s
    nil until client.gets.to_s.strip.empty?
    Net::HTTP.get(URI("http://leaf#{path}&by=ruby")) if path.include?('id=')
    client.write "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    client.close
  end
end
