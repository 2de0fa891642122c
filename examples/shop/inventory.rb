# The inventory, over plain TCP in a protocol where the server talks first:
#
#   S: 220 inventory ready
#   C: STOCK 3
#   S: 250 17
#   C: QUIT
#   S: 221 bye
require "socket"

PORT = Integer(ENV.fetch("PORT", "7000"))
STOCK = { 1 => 12, 2 => 4, 3 => 17, 4 => 0, 5 => 230 }.freeze

def serve(client)
  client.write("220 inventory ready\r\n")
  while (line = client.gets("\n", 1024))
    case line.strip
    when /\ASTOCK (\d{1,6})\z/
      count = STOCK[Integer($1, 10)]
      client.write(count ? "250 #{count}\r\n" : "550 no such product\r\n")
    when "QUIT"
      client.write("221 bye\r\n")
      break
    else
      client.write("500 there are STOCK and QUIT\r\n")
    end
  end
rescue SystemCallError, IOError
  # The client went away: nothing to answer.
ensure
  client.close
end

server = TCPServer.new("0.0.0.0", PORT)
server.listen(128)
trap("TERM") { exit }
trap("INT") { exit }
$stdout.sync = true
puts "inventory: listening on port #{PORT}"
loop { Thread.new(server.accept) { |client| serve(client) } }
