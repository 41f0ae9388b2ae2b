local function escaped(text)
  return (string.gsub(string.sub(text, 1, 128), '[^%w:._/@+-]', function(character)
    return string.format('%%%02X', string.byte(character))
  end))
end
